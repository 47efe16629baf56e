/* Streams on one thread: where chunks end, what is refused, what failures leave behind. Random mixes of everything, and threads:
 * see public_stream_threads.c. */
#include "public.h"
#include <errno.h>
#include <fcntl.h>

enum { TAG = 7, BYTES = 100000 };

static char data[BYTES];
static size_t line_count;
static char directory[64], path[80], empty[80];

static int faults;
static sagemem_error fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    fault = *error;
}

static int setup(void **state) {
    (void)state;
    faults = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}
/* No test leaves bytes or faults behind. */
static int teardown(void **state) {
    (void)state;
    sagemem_tag_stats stats;
    sagemem_heap_stats all;
    if (sagemem_tag_get_stats(NULL, TAG, &stats) != SAGEMEM_OK || stats.used != 0 || stats.blocks != 0) return 1;
    if (sagemem_heap_get_stats(NULL, &all) != SAGEMEM_OK || all.mapped != 0) return 1;
    return faults != 0;
}

static void assert_failed(sagemem_status status, const char *part) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    if (strstr(error->message, part) == NULL) fail_msg("'%s' does not say '%s'", error->message, part);
    assert_string_equal(error->call, "sagemem_stream_run");
}
static void assert_faulted(sagemem_status status, const char *part) {
    assert_int_equal(faults, 1);
    faults = 0;
    assert_int_equal(fault.status, status);
    if (strstr(fault.message, part) == NULL) fail_msg("'%s' does not say '%s'", fault.message, part);
}

/* -- Inputs and what is done with them ------------------------------------------------------------------ */

/* What process_fn saw: it must be all of `all`, in order. */
typedef struct seen {
    const char *all;
    size_t at, chunks, longest;
    size_t stop_at; /* the chunk that begins there, or behind it, is refused with `stop` */
    sagemem_status stop;
    size_t sizes[64];
} seen;
static sagemem_status look(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    seen *s = ctx;
    assert_int_equal(offset, s->at);
    assert_true(size > 0);
    assert_memory_equal(chunk, s->all + s->at, size);
    if (s->stop != SAGEMEM_OK && s->at >= s->stop_at) return s->stop;
    if (s->chunks < 64) s->sizes[s->chunks] = size;
    if (size > s->longest) s->longest = size;
    s->chunks++;
    s->at += size;
    return SAGEMEM_OK;
}

/* Gives bytes in pieces of so many, and fails once it has given `fails_at`. */
typedef struct giver {
    const char *all;
    size_t size, piece, fails_at;
    sagemem_status fails;
    int times; /* how often it fails */
} giver;
static sagemem_status give(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    giver *g = ctx;
    size_t left = g->size - (size_t)offset, n = g->piece < size ? g->piece : size;
    if (n > left) n = left;
    if (g->fails != SAGEMEM_OK && offset + n > g->fails_at) n = g->fails_at > offset ? g->fails_at - (size_t)offset : 0;
    if (g->fails != SAGEMEM_OK && offset >= g->fails_at && g->times-- > 0) return g->fails;
    if (g->times <= 0 && n == 0) n = left < size ? left : size;
    memcpy(to, g->all + offset, n);
    *got = n;
    return SAGEMEM_OK;
}
static giver giver_of(const char *all, size_t size, size_t piece) {
    giver g = {all, size, piece, 0, SAGEMEM_OK, 0};
    return g;
}

static sagemem_reader *open_reader(const char *name, bool mapped) {
    sagemem_reader_desc desc = {0};
    desc.path = name;
    desc.no_mapping = !mapped;
    desc.tag = TAG;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    if (reader == NULL) fail_msg("%s", sagemem_last_error()->message);
    return reader;
}
static sagemem_reader *open_giver(giver *g, size_t buffer, bool ahead) {
    sagemem_input source = {give, NULL, g, false};
    sagemem_reader_desc desc = {0};
    desc.source = &source;
    desc.buffer_bytes = buffer;
    desc.read_ahead = ahead;
    desc.tag = TAG;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    if (reader == NULL) fail_msg("%s", sagemem_last_error()->message);
    return reader;
}
static void well_closed(sagemem_reader *reader) { assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK); }

static sagemem_stream_desc lines_of(sagemem_reader *reader, seen *s) {
    sagemem_stream_desc desc = {0};
    desc.reader = reader;
    desc.delimiter_plus_one = '\n' + 1;
    desc.process_fn = look;
    desc.ctx = s;
    return desc;
}
static seen nothing_seen(const char *all) {
    seen s;
    memset(&s, 0, sizeof s);
    s.all = all;
    return s;
}

/* -- What is refused ------------------------------------------------------------------------------------ */

static size_t no_boundary(void *ctx, const void *at, size_t size) {
    (void)ctx, (void)at, (void)size;
    return 0;
}

static void descs_are_refused(void **state) {
    (void)state;
    seen s = nothing_seen(data);
    sagemem_reader *reader = open_reader(path, true);
    sagemem_stream_desc desc = lines_of(reader, &s);
    assert_int_equal(sagemem_stream_run(NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "no desc");
    desc.reader = NULL;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    desc = lines_of(reader, &s);
    desc.process_fn = NULL;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "process_fn is NULL");
    desc = lines_of(reader, &s);
    desc.record_bytes = 5;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "2 of delimiter_plus_one");
    desc.boundary_fn = no_boundary;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "3 of delimiter_plus_one");
    static const int delimiters[] = {-1, 257, INT32_MAX, INT32_MIN}, counts[] = {-1, 1025, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        desc = lines_of(reader, &s);
        desc.delimiter_plus_one = delimiters[i];
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
        assert_failed(SAGEMEM_E_ARGUMENT, "delimiter_plus_one is");
        desc = lines_of(reader, &s);
        desc.threads = counts[i];
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
        assert_failed(SAGEMEM_E_ARGUMENT, "threads");
        desc = lines_of(reader, &s);
        desc.buffer_count = counts[i];
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
        assert_failed(SAGEMEM_E_ARGUMENT, "buffers");
    }
    desc = lines_of(reader, &s);
    desc.max_record_bytes = SIZE_MAX;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "addresses");
    desc.delimiter_plus_one = 0;
    desc.record_bytes = 1001;
    desc.max_record_bytes = 1000;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "record_bytes is 1001");
    assert_int_equal(s.chunks, 0);
    assert_int_equal(sagemem_reader_position(reader), 0);
    well_closed(reader);
    desc = lines_of(reader, &s);
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_STALE);
    assert_faulted(SAGEMEM_E_STALE, "has ended");
    desc.reader = (sagemem_reader *)(void *)data;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_FOREIGN);
    assert_faulted(SAGEMEM_E_FOREIGN, "no reader");
}

/* -- Chunks --------------------------------------------------------------------------------------------- */

/* Every chunk but the last ends with a line, and could not have had one more. */
static void chunks_of_lines(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 100, 1000, 65536, BYTES, SIZE_MAX};
    for (int mapped = 0; mapped < 2; mapped++)
        for (size_t i = 0; i < 8; i++) {
            seen s = nothing_seen(data);
            sagemem_reader *reader = open_reader(path, mapped);
            sagemem_stream_desc desc = lines_of(reader, &s);
            desc.chunk_bytes = sizes[i];
            assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
            assert_int_equal(s.at, BYTES);
            size_t most = sizes[i] == 0 ? MIB : sizes[i], at = 0;
            for (size_t c = 0; c < s.chunks && c < 64; at += s.sizes[c++]) {
                size_t end = at + s.sizes[c];
                if (end < BYTES) assert_int_equal(data[end - 1], '\n');
                if (s.sizes[c] > most) assert_ptr_equal(memchr(data + at, '\n', BYTES - at), data + end - 1);
                const char *next = end < BYTES ? memchr(data + end, '\n', BYTES - end) : NULL;
                if (next != NULL) assert_true((size_t)(next + 1 - data) - at > most);
            }
            assert_int_equal(sagemem_reader_position(reader), BYTES);
            well_closed(reader);
        }
}

static void chunks_by_number_of_records(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++)
        for (size_t records = 1; records < 2000; records = records * 3 + 1) {
            seen s = nothing_seen(data);
            sagemem_reader *reader = open_reader(path, mapped);
            sagemem_stream_desc desc = lines_of(reader, &s);
            desc.chunk_records = records;
            assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
            assert_int_equal(s.at, BYTES);
            assert_int_equal(s.chunks, (line_count + records - 1) / records);
            well_closed(reader);
        }
}

static void records_of_one_size(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        seen s = nothing_seen(data);
        sagemem_reader *reader = open_reader(path, mapped);
        sagemem_stream_desc desc = lines_of(reader, &s);
        desc.delimiter_plus_one = 0;
        desc.record_bytes = 3001;
        desc.chunk_bytes = 9999;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        assert_int_equal(s.chunks, 11);
        for (size_t i = 0; i + 1 < s.chunks; i++) assert_int_equal(s.sizes[i], 9003);
        assert_int_equal(s.sizes[10], BYTES - 10 * 9003); /* the last record is not complete, and fits in */
        well_closed(reader);

        s = nothing_seen(data);
        desc.reader = reader = open_reader(path, mapped);
        desc.chunk_bytes = 10; /* less than a record: as much as that */
        desc.record_bytes = 40000;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.chunks, 3);
        assert_int_equal(s.sizes[2], 20000);
        well_closed(reader);

        s = nothing_seen(data);
        desc.reader = reader = open_reader(path, mapped);
        desc.record_bytes = 0; /* any bytes */
        desc.chunk_bytes = 60000;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.chunks, 2);
        assert_int_equal(s.sizes[0], 60000);
        well_closed(reader);
    }
}

/* A byte says how many follow it. */
static size_t counted(void *ctx, const void *at, size_t size) {
    size_t n = (size_t) * (const unsigned char *)at + 1;
    (void)ctx;
    return n <= size ? n : 0;
}
/* All complete ones at once. */
static size_t counted_all(void *ctx, const void *at, size_t size) {
    size_t done = 0, n;
    (void)ctx;
    while (done < size && (n = (size_t)((const unsigned char *)at)[done] + 1) <= size - done) done += n;
    return done;
}

/* One record at a question, or all: the chunks are the same, wherever the bytes come from. */
static void records_by_callback(void **state) {
    (void)state;
    seen first = nothing_seen(data);
    for (int how = 0; how < 4; how++) {
        seen s = nothing_seen(data);
        sagemem_reader *reader = open_reader(path, how % 2);
        sagemem_stream_desc desc = lines_of(reader, &s);
        desc.delimiter_plus_one = 0;
        desc.boundary_fn = how < 2 ? counted : counted_all;
        desc.chunk_bytes = 5000;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        assert_true(s.longest <= 5000 && s.chunks <= 64);
        if (how == 0) first = s;
        assert_int_equal(s.chunks, first.chunks);
        assert_memory_equal(s.sizes, first.sizes, sizeof s.sizes);
        well_closed(reader);
    }
}

/* With chunk_records, one question is one record, and no byte more is read than its answer takes. */
static void records_one_by_one(void **state) {
    (void)state;
    static const char text[] = "\3abc\0\5hello\1x\7rest";
    giver g = giver_of(text, sizeof text - 1, 1);
    for (int ahead = 0; ahead < 2; ahead++) {
        seen s = nothing_seen(text);
        sagemem_reader *reader = open_giver(&g, 4096, ahead);
        sagemem_stream_desc desc = lines_of(reader, &s);
        desc.delimiter_plus_one = 0;
        desc.boundary_fn = counted_all;
        desc.chunk_records = 1;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        static const size_t sizes[] = {4, 1, 6, 2, 5};
        assert_int_equal(s.chunks, 5);
        assert_memory_equal(s.sizes, sizes, sizeof sizes);
        well_closed(reader);
    }
}

static size_t says_more(void *ctx, const void *at, size_t size) {
    (void)ctx;
    return *(const char *)at == 'x' ? size + 1 : 1;
}
static void boundary_that_says_more_than_there_is(void **state) {
    (void)state;
    giver g = giver_of("abcxyz", 6, 6);
    seen s = nothing_seen("abcxyz");
    sagemem_reader *reader = open_giver(&g, 4096, false);
    sagemem_stream_desc desc = lines_of(reader, &s);
    desc.delimiter_plus_one = 0;
    desc.boundary_fn = says_more;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_CORRUPT);
    assert_failed(SAGEMEM_E_CORRUPT, "at byte 3");
    assert_int_equal(s.at, 3); /* what came before was processed */
    assert_int_equal(sagemem_reader_position(reader), 3);
    well_closed(reader);
}

/* chunk_bytes is not enough for a record: it is a chunk of its own, up to the limit. */
static void long_records(void **state) {
    (void)state;
    char *text = malloc(500000);
    assert_non_null(text);
    memset(text, 'a', 500000);
    text[9] = text[300009] = text[300019] = '\n'; /* 10, 300000, 10, 199980 */
    for (int mode = 0; mode < 3; mode++)
        for (size_t limit = 299999; limit <= 300001; limit++) {
            giver g = giver_of(text, 500000, mode == 2 ? 999 : 500000);
            seen s = nothing_seen(text);
            sagemem_reader *reader = open_giver(&g, 4096, mode == 1);
            sagemem_stream_desc desc = lines_of(reader, &s);
            desc.chunk_bytes = 100;
            desc.max_record_bytes = limit;
            sagemem_status status = sagemem_stream_run(&desc);
            if (limit < 300000) {
                assert_int_equal(status, SAGEMEM_E_TOO_BIG);
                assert_failed(SAGEMEM_E_TOO_BIG, "at byte 10 ");
                assert_int_equal(sagemem_reader_position(reader), 10); /* nothing is lost */
                desc.max_record_bytes = 0;
                assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
            } else {
                assert_int_equal(status, SAGEMEM_OK);
            }
            assert_int_equal(s.chunks, 4);
            assert_int_equal(s.longest, 300000);
            assert_int_equal(s.at, 500000);
            well_closed(reader);
        }
    free(text);
}

/* The limit also holds for records that would fit into a chunk, and for the last one. */
static void limit_is_exact(void **state) {
    (void)state;
    static const char text[] = "1234\n12345\n12\n123456";
    for (int mode = 0; mode < 2; mode++)
        for (size_t limit = 1; limit < 9; limit++) {
            giver g = giver_of(text, sizeof text - 1, 3);
            seen s = nothing_seen(text);
            sagemem_reader *reader = open_giver(&g, 4096, false);
            sagemem_stream_desc desc = lines_of(reader, &s);
            desc.max_record_bytes = limit;
            desc.chunk_records = (size_t)mode;
            assert_int_equal(sagemem_stream_run(&desc), limit < 6 ? SAGEMEM_E_TOO_BIG : SAGEMEM_OK);
            if (limit < 6) assert_failed(SAGEMEM_E_TOO_BIG, limit < 5 ? "at byte 0 " : "at byte 5 ");
            assert_int_equal(s.at, limit < 5 ? 0 : limit < 6 ? 5 : sizeof text - 1);
            well_closed(reader);
        }
    giver g = giver_of("12\n123", 6, 3);
    seen s = nothing_seen("12\n123");
    sagemem_reader *reader = open_giver(&g, 4096, false);
    sagemem_stream_desc desc = lines_of(reader, &s);
    desc.max_record_bytes = 3;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_int_equal(s.at, 6);
    well_closed(reader);
}

static void empty_input(void **state) {
    (void)state;
    seen s = nothing_seen(data);
    sagemem_reader *reader = open_reader(empty, true);
    sagemem_stream_desc desc = lines_of(reader, &s);
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_int_equal(s.chunks, 0);
    well_closed(reader);
}

static void fasta(void **state) {
    (void)state;
    static const char text[] = ">a\nACGT\n>b >c\nAC\nGT\n\n>\n>d";
    static const size_t sizes[] = {8, 13, 2, 2};
    seen s = nothing_seen(text);
    giver g = giver_of(text, sizeof text - 1, 2);
    sagemem_reader *reader = open_giver(&g, 16, false);
    sagemem_stream_desc desc = lines_of(reader, &s);
    desc.delimiter_plus_one = 0;
    desc.boundary_fn = sagemem_fasta_boundary;
    desc.chunk_bytes = 1;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_int_equal(s.chunks, 4);
    assert_memory_equal(s.sizes, sizes, sizeof sizes);
    well_closed(reader);
    assert_int_equal(sagemem_fasta_boundary(NULL, text, 0), 0);
    assert_int_equal(sagemem_fasta_boundary(NULL, text, 1), 0);
    assert_int_equal(sagemem_fasta_boundary(NULL, text, 8), 0);
    assert_int_equal(sagemem_fasta_boundary(NULL, text, 9), 8);
    assert_int_equal(sagemem_fasta_boundary(NULL, "", 0), 0);
}

/* -- Stopping and failing ------------------------------------------------------------------------------- */

static void callback_stops_and_goes_on(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        giver g = giver_of(data, BYTES, 777);
        seen s = nothing_seen(data);
        sagemem_reader *reader = mode < 2 ? open_reader(path, mode) : open_giver(&g, 4096, mode == 3);
        sagemem_stream_desc desc = lines_of(reader, &s);
        desc.chunk_bytes = 3000;
        s.stop = SAGEMEM_E_FULL;
        for (s.stop_at = 20000; s.stop_at < BYTES; s.stop_at += 20000) {
            assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_FULL);
            assert_failed(SAGEMEM_E_FULL, "process_fn returned SAGEMEM_E_FULL");
            assert_int_equal(sagemem_reader_position(reader), s.at); /* not consumed: nothing is lost */
        }
        s.stop = SAGEMEM_OK;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        well_closed(reader);
    }
}

static sagemem_status fails_in_the_library(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)ctx, (void)chunk, (void)size, (void)offset;
    return sagemem_tag_define(5000, "no such tag");
}
static sagemem_status fails_and_goes_on(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)fails_in_the_library(ctx, chunk, size, offset);
    return SAGEMEM_OK;
}
static void last_error_is_the_reason(void **state) {
    (void)state;
    seen s = nothing_seen(data);
    sagemem_reader *reader = open_reader(path, true);
    sagemem_stream_desc desc = lines_of(reader, &s);
    desc.process_fn = fails_in_the_library;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_ARGUMENT);
    assert_string_equal(sagemem_last_error()->call, "sagemem_tag_define");
    assert_int_equal(sagemem_stream_run(NULL), SAGEMEM_E_ARGUMENT);
    desc.process_fn = fails_and_goes_on;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_failed(SAGEMEM_E_ARGUMENT, "no desc"); /* a success leaves the last error as it was */
    well_closed(reader);
}

/* What was read before a failure is processed before it is told; then it can go on. */
static void source_fails(void **state) {
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        giver g = giver_of(data, BYTES, 5000);
        g.fails = SAGEMEM_E_TIMEOUT;
        g.fails_at = 12345;
        g.times = 1;
        seen s = nothing_seen(data);
        sagemem_reader *reader = open_giver(&g, 4096, ahead);
        sagemem_stream_desc desc = lines_of(reader, &s);
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_TIMEOUT);
        assert_string_equal(sagemem_last_error()->call, "sagemem_stream_run");
        size_t lines = 12345;
        while (data[lines - 1] != '\n') lines--;
        assert_int_equal(s.at, lines);
        assert_int_equal(sagemem_reader_position(reader), lines);
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        well_closed(reader);
    }
}

static void nonblocking_pipe(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    sagemem_reader_desc desc = {0};
    desc.fd_plus_one = ends[0] + 1;
    desc.tag = TAG;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    assert_non_null(reader);
    static const char text[] = "one\ntwo\nthree";
    seen s = nothing_seen(text);
    sagemem_stream_desc stream = lines_of(reader, &s);
    assert_int_equal(write(ends[1], text, 9), 9);
    assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_E_IO);
    assert_failed(SAGEMEM_E_IO, "repeat");
    assert_int_equal(sagemem_last_error()->os_error, EAGAIN);
    assert_int_equal(s.at, 8);
    assert_int_equal(write(ends[1], text + 9, 4), 4);
    close(ends[1]);
    assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_OK);
    assert_int_equal(s.at, 13);
    well_closed(reader);
    close(ends[0]);
}

/* The reader and the stream can be used in turns. */
static void begins_where_the_reader_stands(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        seen s = nothing_seen(data);
        sagemem_reader *reader = open_reader(path, mapped);
        assert_memory_equal(sagemem_read_view(reader, 1000), data, 1000);
        s.at = 1000;
        s.stop = SAGEMEM_E_FULL;
        s.stop_at = 50000;
        sagemem_stream_desc desc = lines_of(reader, &s);
        desc.chunk_records = 10;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_FULL);
        assert_memory_equal(sagemem_read_view(reader, 100), data + s.at, 100);
        s.at += 100;
        s.stop = SAGEMEM_OK;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        well_closed(reader);
    }
}

/* -- Misuse, scopes, heaps, limits ---------------------------------------------------------------------- */

static sagemem_status uses_the_reader(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)chunk, (void)size, (void)offset;
    size_t got;
    char byte;
    assert_int_equal(sagemem_read(ctx, &byte, 1, &got), SAGEMEM_E_BUSY);
    assert_faulted(SAGEMEM_E_BUSY, "waiting for the function");
    assert_int_equal(sagemem_reader_close(ctx), SAGEMEM_E_BUSY);
    assert_faulted(SAGEMEM_E_BUSY, "waiting for the function");
    return SAGEMEM_OK;
}
static void reader_is_busy(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        sagemem_reader *reader = open_reader(path, mapped);
        sagemem_stream_desc desc = lines_of(reader, NULL);
        desc.process_fn = uses_the_reader;
        desc.ctx = reader;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        well_closed(reader);
    }
}

static sagemem_status ends_the_scope(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)ctx, (void)chunk, (void)size, (void)offset;
    return sagemem_scope_end(NULL);
}
static void scope_ends_under_it(void **state) {
    (void)state;
    assert_int_equal(sagemem_scope_begin(NULL, "outer", 1), SAGEMEM_OK);
    sagemem_reader *reader = open_reader(path, false);
    assert_int_equal(sagemem_scope_begin(NULL, "inner", 1), SAGEMEM_OK);
    sagemem_stream_desc desc = lines_of(reader, NULL);
    desc.process_fn = ends_the_scope;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_E_STALE);
    assert_faulted(SAGEMEM_E_STALE, "ended");
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
}

static sagemem_status works_in_scopes(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    assert_int_equal(sagemem_scope_begin(NULL, "chunk", offset), SAGEMEM_OK);
    void *copy = sagemem_memdup(NULL, chunk, size, TAG);
    assert_non_null(copy);
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
    return look(ctx, chunk, size, offset);
}
static void callback_may_use_the_library(void **state) {
    (void)state;
    seen s = nothing_seen(data);
    sagemem_reader *reader = open_reader(path, false);
    sagemem_stream_desc desc = lines_of(reader, &s);
    desc.process_fn = works_in_scopes;
    desc.chunk_bytes = 2000;
    assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
    assert_int_equal(s.at, BYTES);
    well_closed(reader);
}

static void heaps_of_every_kind(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t i = 0; i < 5; i++) {
        sagemem_heap_desc heap_desc = {0};
        heap_desc.flags = flags[i];
        sagemem_heap *heap = sagemem_heap_create(&heap_desc);
        sagemem_reader_desc desc = {0};
        desc.path = path;
        desc.no_mapping = true;
        desc.buffer_bytes = 100;
        desc.heap = heap;
        desc.tag = TAG;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        seen s = nothing_seen(data);
        sagemem_stream_desc stream = lines_of(reader, &s);
        stream.chunk_bytes = 10000;
        s.stop = SAGEMEM_E_FULL;
        s.stop_at = 60000;
        assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_E_FULL);
        assert_int_equal(sagemem_heap_check(heap), 0);
        s.stop = SAGEMEM_OK;
        stream.threads = 2; /* the rest */
        assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_OK);
        assert_int_equal(sagemem_heap_check(heap), 0);
        assert_int_equal(sagemem_reader_position(reader), BYTES);
        well_closed(reader);
        sagemem_heap_stats stats;
        assert_int_equal(sagemem_heap_get_stats(heap, &stats), SAGEMEM_OK);
        assert_int_equal(stats.used, 0);
        sagemem_heap_destroy(heap);
    }
}

/* The buffer cannot grow to a chunk: what is complete is processed, then it says so, and nothing is lost. */
static void limits_are_met_and_lifted(void **state) {
    (void)state;
    for (int threads = 1; threads < 3; threads++) {
        sagemem_heap *heap = sagemem_heap_create(NULL);
        giver g = giver_of(data, BYTES, BYTES);
        sagemem_input source = {give, NULL, &g, false};
        sagemem_reader_desc desc = {0};
        desc.source = &source;
        desc.buffer_bytes = 10000;
        desc.heap = heap;
        desc.tag = TAG;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        assert_int_equal(sagemem_limit_set(heap, 1), SAGEMEM_OK);
        seen s = nothing_seen(data);
        sagemem_stream_desc stream = lines_of(reader, &s);
        stream.threads = threads;
        assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_E_LIMIT);
        if (threads == 1) assert_true(s.at > 0 && data[s.at - 1] == '\n');
        assert_int_equal(sagemem_reader_position(reader), s.at);
        assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
        assert_int_equal(sagemem_stream_run(&stream), SAGEMEM_OK);
        assert_int_equal(s.at, BYTES);
        well_closed(reader);
        sagemem_heap_destroy(heap);
    }
}

/* A mapped file is not copied: chunks are parts of it, and nothing is allocated. */
static size_t most_used;
static const char *lowest, *highest;
static sagemem_status measure(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    sagemem_tag_stats stats;
    assert_int_equal(sagemem_tag_get_stats(NULL, TAG, &stats), SAGEMEM_OK);
    if (stats.used > most_used) most_used = (size_t)stats.used;
    if (lowest == NULL || (const char *)chunk < lowest) lowest = chunk;
    if ((const char *)chunk + size > highest) highest = (const char *)chunk + size;
    return SAGEMEM_OK;
}
static void mapped_files_are_not_copied(void **state) {
    (void)state;
    for (int threads = 1; threads < 4; threads++) {
        most_used = 0;
        lowest = highest = NULL;
        sagemem_reader *reader = open_reader(path, true);
        sagemem_stream_desc desc = lines_of(reader, NULL);
        desc.process_fn = measure;
        desc.threads = threads;
        desc.chunk_bytes = 1000;
        assert_int_equal(sagemem_stream_run(&desc), SAGEMEM_OK);
        assert_int_equal(most_used, 0);
        assert_int_equal(highest - lowest, BYTES);
        well_closed(reader);
    }
}

/* -- Failures on purpose -------------------------------------------------------------------------------- */

/* 0 mapped, 1 read, 2 ahead, 3 pipe; 4 to 7 the same with threads */
static sagemem_status live(void *ctx) {
    int how = *(const int *)ctx, ends[2] = {-1, -1};
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (heap == NULL) return sagemem_last_error()->status;
    sagemem_reader_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.no_mapping = how % 4 > 0;
    desc.read_ahead = how % 4 == 2;
    desc.buffer_bytes = 4000;
    if (how % 4 == 3) {
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(write(ends[1], data, 30000), 30000);
        close(ends[1]);
        desc.fd_plus_one = ends[0] + 1;
    } else {
        desc.path = path;
    }
    sagemem_reader *reader = sagemem_reader_open(&desc);
    sagemem_status status = reader != NULL ? SAGEMEM_OK : sagemem_last_error()->status;
    seen s = nothing_seen(data);
    if (status == SAGEMEM_OK) {
        sagemem_stream_desc stream = lines_of(reader, &s);
        stream.threads = how < 4 ? 1 : 2;
        stream.chunk_bytes = 9000;
        status = sagemem_stream_run(&stream);
        if (status != SAGEMEM_OK && how < 4) assert_int_equal(sagemem_reader_position(reader), s.at);
        if (status != SAGEMEM_OK) assert_int_equal(sagemem_last_error()->status, status);
        if (status == SAGEMEM_OK) assert_int_equal(s.at, how % 4 == 3 ? 30000 : BYTES);
        assert_int_equal(sagemem_heap_check(heap), 0);
    }
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    sagemem_heap_stats stats;
    assert_int_equal(sagemem_heap_get_stats(heap, &stats), SAGEMEM_OK);
    assert_int_equal(stats.used, 0);
    sagemem_heap_destroy(heap);
    if (ends[0] >= 0) close(ends[0]);
    return status;
}
static void every_failure_is_survived(void **state) {
    (void)state;
    for (int how = 0; how < 8; how++) {
        uint64_t points;
        assert_int_equal(sagemem_check_failures(live, &how, &points), SAGEMEM_OK);
        assert_true(points >= 3);
    }
}

/* -- All of it ------------------------------------------------------------------------------------------ */

static int make_file(const char *name, const void *bytes, size_t size) {
    FILE *file = fopen(name, "wb");
    if (file == NULL) return 1;
    size_t n = fwrite(bytes, 1, size, file);
    return fclose(file) != 0 || n != size;
}
/* Lines of 1 to 400 bytes, the last one without an end. */
static int begin(void **state) {
    (void)state;
    uint32_t x = 1;
    for (size_t i = 0, left = 0; i < BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        if (left == 0) left = 1 + (x >> 16) % 400;
        data[i] = --left == 0 && i + 1 < BYTES ? '\n' : (char)('!' + (x >> 24) % 90);
        line_count += data[i] == '\n' || i + 1 == BYTES;
    }
    snprintf(directory, sizeof directory, "/tmp/sagemem-stream-XXXXXX");
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(path, sizeof path, "%s/input", directory);
    snprintf(empty, sizeof empty, "%s/empty", directory);
    return make_file(path, data, BYTES) != 0 || make_file(empty, "", 0) != 0;
}
static int end(void **state) {
    (void)state;
    unlink(path);
    unlink(empty);
    return rmdir(directory);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        test(descs_are_refused),
        test(chunks_of_lines),
        test(chunks_by_number_of_records),
        test(records_of_one_size),
        test(records_by_callback),
        test(records_one_by_one),
        test(boundary_that_says_more_than_there_is),
        test(long_records),
        test(limit_is_exact),
        test(empty_input),
        test(fasta),
        test(callback_stops_and_goes_on),
        test(last_error_is_the_reason),
        test(source_fails),
        test(nonblocking_pipe),
        test(begins_where_the_reader_stands),
        test(reader_is_busy),
        test(scope_ends_under_it),
        test(callback_may_use_the_library),
        test(heaps_of_every_kind),
        test(limits_are_met_and_lifted),
        test(mapped_files_are_not_copied),
        test(every_failure_is_survived),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
