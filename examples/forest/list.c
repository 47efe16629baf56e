/* Arrays that grow: see list.h. */
#include "list.h"

enum { STEP = 64 }; /* elements, by hand: each step may copy all that is there, so that n of them copy n * n / 128 */

bool list_init(struct list *list, sagemem_heap *heap, sagemem_tag tag, size_t element_size, bool by_hand) {
    *list = (struct list){.by_hand = by_hand};
    if (!by_hand)
        return sagemem_array_init(&list->array, &(sagemem_array_desc){.heap = heap, .tag = tag, .element_size = element_size}) ==
               SAGEMEM_OK;
    void *data = sagemem_alloc_array(heap, STEP, element_size, tag);
    if (!data) return false;
    list->array = (sagemem_array){.data = data, .capacity = STEP, .element_size = element_size};
    return true;
}

void *list_grow(struct list *list) {
    sagemem_array *array = &list->array;
    if (!list->by_hand) return sagemem_array_add(array, 1);
    void *data = sagemem_realloc(NULL, array->data, (array->capacity + STEP) * array->element_size, SAGEMEM_TAG_SAME);
    if (!data) return NULL;
    array->data = data;
    array->capacity += STEP;
    return list_add(list);
}
