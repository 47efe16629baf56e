/* An array that grows: the library's, or as it is often written by hand. */
#ifndef LIST_H
#define LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "sagemem.h"

/* The array is also used `by_hand`; then it is just a place for data, count and capacity. It belongs to the scope that
 * was open when it was made. */
struct list {
    sagemem_array array;
    bool by_hand;
};

/* These return false or NULL when there is no memory, see sagemem_last_error(); the list is as it was. */
bool list_init(struct list *list, sagemem_heap *heap, sagemem_tag tag, size_t element_size, bool by_hand);
void *list_grow(struct list *list);

static inline void list_clear(struct list *list) { list->array.count = 0; }

/* The place of one more element, its content undefined; good until the next one is added. */
static inline void *list_add(struct list *list) {
    sagemem_array *array = &list->array;
    if (array->count == array->capacity) return list_grow(list);
    return (char *)array->data + array->count++ * array->element_size;
}

#endif
