/* Any bytes, cut into records: a stream that gets them in pieces gives them all back, in chunks of the size that was asked for; and
 * with one record a chunk, an index of the same bytes finds the same records.
 *
 * The first six bytes choose the kind of record, its size, the size of chunks, of pieces and of the buffer, and threads. */
#include "fuzz.h"

enum { HEAD = 6 };

typedef struct run {
    const uint8_t *data;
    size_t size, piece;
    size_t at, chunks;
    sagemem_index *index; /* NULL: records are not counted */
    size_t record;
} run;

static sagemem_status give(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    const run *r = (const run *)ctx;
    size_t left = r->size - (size_t)offset;
    *got = left < r->piece ? left : r->piece;
    if (*got > size) *got = size;
    if (*got > 0) memcpy(to, r->data + offset, *got);
    return SAGEMEM_OK;
}

static sagemem_status look(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    run *r = (run *)ctx;
    MUST(offset == r->at && size > 0 && size <= r->size - r->at && memcmp(chunk, r->data + r->at, size) == 0);
    r->at += size;
    r->chunks++;
    if (r->index != NULL) {
        uint64_t at, bytes;
        MUST(sagemem_index_get(r->index, r->record, &at, &bytes) == SAGEMEM_OK);
        if (r->record == 0 && at > offset) { /* in front of the first '>' */
            MUST(at == offset + size || at < offset + size);
            if (at == offset + size) return SAGEMEM_OK;
        } else {
            MUST(at == offset);
        }
        MUST(at + bytes == offset + size);
        r->record++;
    }
    return SAGEMEM_OK;
}

static size_t counted(void *ctx, const void *at, size_t size) {
    size_t n = (size_t) * (const unsigned char *)at + 1;
    (void)ctx;
    return n <= size ? n : 0;
}

static sagemem_status stream(run *r, sagemem_stream_desc *d, size_t buffer, bool ahead) {
    sagemem_input source = {give, NULL, NULL, false};
    sagemem_reader_desc desc = {0};
    source.ctx = r;
    desc.source = &source;
    desc.buffer_bytes = buffer;
    desc.read_ahead = ahead;
    d->reader = sagemem_reader_open(&desc);
    MUST(d->reader != NULL);
    d->process_fn = look;
    d->ctx = r;
    sagemem_status status = sagemem_stream_run(d);
    MUST(sagemem_reader_position(d->reader) == r->at || d->threads > 1);
    MUST(sagemem_reader_close(d->reader) == SAGEMEM_OK);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_begin();
    if (size < HEAD) return 0;
    run r = {data + HEAD, size - HEAD, (size_t)data[3] + 1, 0, 0, NULL, 0};
    sagemem_stream_desc d = {0};
    sagemem_index_desc x = {0};
    switch (data[0] % 4) {
    case 0: d.delimiter_plus_one = x.delimiter_plus_one = data[1] + 1; break;
    case 1: d.record_bytes = x.record_bytes = (size_t)data[1] + 1; break;
    case 2: d.boundary_fn = x.boundary_fn = counted; break;
    default: d.boundary_fn = sagemem_fasta_boundary; x.fasta = true;
    }
    d.chunk_bytes = data[2];
    if (data[5] % 4 == 0) d.max_record_bytes = (size_t)data[1] + 1 + data[4] % 16;
    d.threads = data[5] % 16 == 1 ? 2 : 1;
    bool ahead = data[5] % 16 == 2;
    sagemem_status status = stream(&r, &d, (size_t)data[4] + 1, ahead);
    MUST(status == SAGEMEM_OK || (status == SAGEMEM_E_TOO_BIG && d.max_record_bytes != 0));
    MUST(status != SAGEMEM_OK || r.at == r.size);

    fuzz_write(0, r.data, r.size);
    sagemem_map_desc m = {0};
    m.path = fuzz_path[0];
    m.window = data[5] % 8 == 3 ? 4096 : 0;
    sagemem_map *map = sagemem_map_open(&m);
    MUST(map != NULL);
    r.index = sagemem_index_build(map, &x);
    MUST(r.index != NULL);
    uint64_t count = sagemem_index_count(r.index);
    r.at = r.chunks = 0;
    d.chunk_bytes = 0;
    d.max_record_bytes = 0;
    d.chunk_records = 1;
    if (count > 0) {
        MUST(stream(&r, &d, (size_t)data[4] + 1, ahead) == SAGEMEM_OK);
        MUST(r.record == count && r.at == r.size);
    }
    MUST(sagemem_heap_check(NULL) == 0);
    sagemem_index_destroy(r.index);
    MUST(sagemem_map_close(map) == SAGEMEM_OK);
    return 0;
}
