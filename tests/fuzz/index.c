/* A saved index from anywhere: it is refused, or all of its records lie in the map, one behind the other.
 *
 * The first byte says what the others are: the file itself; or changes to a good one, three bytes each. Its second bit: the
 * checksums are made to fit, so that what is behind them is reached. */
#include "fuzz.h"

enum { DATA = 6000, HEADER = 128, FILE_MAX = 16384 };

static uint8_t good[4][FILE_MAX], made[FILE_MAX];
static size_t good_size[4];
static sagemem_map *map;

static size_t counted(void *ctx, const void *at, size_t size) {
    size_t n = (size_t) * (const unsigned char *)at + 1;
    (void)ctx;
    return n <= size ? n : 0;
}

static void begin(void) {
    static uint8_t data[DATA];
    struct timespec times[2] = {{1000, 0}, {1000, 0}};
    fuzz_begin();
    for (size_t i = 0; i < DATA; i++) data[i] = i * i % 37 == 0 ? '\n' : i * i % 37 == 1 ? '>' : (uint8_t)(i % 50);
    fuzz_write(0, data, DATA);
    MUST(utimensat(AT_FDCWD, fuzz_path[0], times, 0) == 0);
    sagemem_map_desc m = {0};
    m.path = fuzz_path[0];
    map = sagemem_map_open(&m);
    MUST(map != NULL);
    for (int kind = 0; kind < 4; kind++) {
        sagemem_index_desc d = {0};
        if (kind == 0) d.delimiter_plus_one = '\n' + 1;
        if (kind == 1) d.fasta = true;
        if (kind == 2) d.record_bytes = 7;
        if (kind == 3) d.boundary_fn = counted;
        sagemem_index *index = sagemem_index_build(map, &d);
        MUST(index != NULL && sagemem_index_save(index, fuzz_path[1]) == SAGEMEM_OK);
        sagemem_index_destroy(index);
        FILE *file = fopen(fuzz_path[1], "rb");
        MUST(file != NULL);
        good_size[kind] = fread(good[kind], 1, FILE_MAX, file);
        MUST(fclose(file) == 0 && good_size[kind] < FILE_MAX);
    }
}

static void seal(uint8_t *file, size_t size) {
    uint32_t sum = smi_crc32c(0, file + HEADER, size - HEADER);
    memcpy(file + HEADER - 8, &sum, 4);
    sum = smi_crc32c(0, file, HEADER - 4);
    memcpy(file + HEADER - 4, &sum, 4);
}

static size_t make_file(const uint8_t *data, size_t size) {
    unsigned how = data[0], kind = how >> 2 & 3;
    size_t n = size - 1;
    if ((how & 1) != 0) {
        if (n > FILE_MAX) n = FILE_MAX;
        memcpy(made, data + 1, n);
    } else {
        n = good_size[kind];
        memcpy(made, good[kind], n);
        for (size_t i = 1; i + 3 <= size; i += 3) made[((size_t)data[i] << 8 | data[i + 1]) % n] = data[i + 2];
    }
    if ((how & 2) != 0 && n >= HEADER) seal(made, n);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (map == NULL) begin();
    if (size == 0) return 0;
    fuzz_write(1, made, make_file(data, size));
    sagemem_index *index = sagemem_index_load(map, fuzz_path[1], NULL);
    if (index == NULL) {
        sagemem_status status = sagemem_last_error()->status;
        MUST(status == SAGEMEM_E_CORRUPT || status == SAGEMEM_E_STALE || status == SAGEMEM_E_UNSUPPORTED);
        return 0;
    }
    uint64_t offset, bytes, behind = 0, record;
    for (uint64_t i = 0; i < sagemem_index_count(index); i++) {
        MUST(sagemem_index_get(index, i, &offset, &bytes) == SAGEMEM_OK);
        MUST(offset < DATA && bytes > 0 && bytes <= DATA - offset && (i == 0 || offset == behind));
        MUST(sagemem_index_find(index, offset, &record) == SAGEMEM_OK && record == i);
        behind = offset + bytes;
    }
    MUST(sagemem_heap_check(NULL) == 0);
    sagemem_index_destroy(index);
    return 0;
}
