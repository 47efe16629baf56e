/* As watched.c, for maps: FILE [map|copy whole|window good|refresh|past|before|next|closed]... */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

/* How, whole or window, what. */
static int watch(const char *path, const char *how, const char *part, const char *what) {
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.offset = 24;
    desc.no_mapping = strcmp(how, "copy") == 0;
    desc.window = strcmp(part, "window") == 0 ? 1000 : 0;
    desc.mode = desc.window != 0 ? SAGEMEM_MAP_READ : SAGEMEM_MAP_WRITE;
    sagemem_map *map = sagemem_map_open(&desc);
    size_t size = desc.window != 0 ? 104 : 5000 - 24;
    volatile char *view = map != NULL ? (volatile char *)(uintptr_t)sagemem_map_view(map, 0, size) : NULL;
    if (view == NULL) return 2;
    if (view[0] != 'x' || view[size - 1] != 'x') return 3;
    if (desc.window == 0) *(char *)sagemem_map_data_writable(map) = 'x';
    if (sagemem_map_flush(map) != SAGEMEM_OK) return 4;
    if (strcmp(what, "next") == 0 && sagemem_map_view(map, 200, 8) == NULL) return 2;
    if (strcmp(what, "refresh") == 0 && sagemem_map_refresh(map) != SAGEMEM_OK) return 2;
    if (strcmp(what, "closed") == 0 || strcmp(what, "refresh") == 0) sagemem_map_close(map);
    if (strcmp(what, "refresh") == 0) return 0;
    if (strcmp(what, "before") == 0 && view[-1] == 'y') return 5;
    if (strcmp(what, "before") != 0 && strcmp(what, "good") != 0 && view[strcmp(what, "past") == 0 ? size : 0] == 'y') return 5;
    return strcmp(what, "closed") == 0 || sagemem_map_close(map) == SAGEMEM_OK ? 0 : 6;
}

int main(int argc, char **argv) {
    for (int i = 2; i + 2 < argc; i += 3) {
        int status = watch(argv[1], argv[i], argv[i + 1], argv[i + 2]);
        if (status != 0) return status;
    }
    return 0;
}
