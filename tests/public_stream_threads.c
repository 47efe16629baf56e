/* Streams against a simple model: every input, every kind of record, any number of threads; stopping, back-pressure, and who may
 * do what meanwhile. Run under the thread sanitizer. */
#include "public.h"

#include "oracle.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

enum { TAG = 7, BYTES = 60000, RECORDS = BYTES + 1, CHUNKS = BYTES + 1 };

static char directory[64], path[80];
static unsigned char text[BYTES];

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    fprintf(stderr, "fault: %s: %s\n", error->call, error->message);
    abort();
}

/* -- The model: records one after the other, then chunks of as many as fit --------------------------------- */

typedef enum kind { LINES, SIZES, COUNTED, FASTA, ANY, KINDS } kind;

static size_t record_ends[RECORDS], record_count;
static bool last_is_seen; /* that it is complete, before the end of the input is */
static size_t chunk_ends[CHUNKS], chunk_count;

/* A byte says how many follow it. */
static size_t counted(void *ctx, const void *at, size_t size) {
    size_t n = (size_t) * (const unsigned char *)at + 1;
    (void)ctx;
    return n <= size ? n : 0;
}

static void model_records(kind k, size_t size, size_t record_bytes) {
    record_count = 0;
    for (size_t i = 0, start = 0; i < size; i++) {
        bool last = i + 1 == size;
        if (k == LINES) last = last || text[i] == '\n';
        if (k == SIZES) last = last || i + 1 - start == record_bytes;
        if (k == COUNTED) last = last || i - start == text[start];
        if (k == FASTA) last = last || (text[i] == '\n' && text[i + 1] == '>');
        if (k == ANY) last = true;
        if (!last) continue;
        last_is_seen = k == LINES   ? text[i] == '\n'
                       : k == SIZES ? i + 1 - start == record_bytes
                                    : k == ANY || (k == COUNTED && i - start == text[start]);
        record_ends[record_count++] = i + 1;
        start = i + 1;
    }
}

/* False: behind the last chunk is a record that is too long. `beyond`: bytes that must be seen behind a record to know its end. */
static bool model_chunks(size_t bytes, size_t records, size_t most, size_t beyond) {
    size_t size = record_count > 0 ? record_ends[record_count - 1] : 0;
    size_t start = 0;
    chunk_count = 0;
    for (size_t i = 0; i < record_count;) {
        size_t n = 0, from = i > 0 ? record_ends[i - 1] : 0;
        if (record_ends[i] - from > most) return false;
        while (i < record_count && (n == 0 || record_ends[i] + (record_ends[i] < size ? beyond : !last_is_seen) - start <= bytes) &&
               (records == 0 || n < records) && record_ends[i] - (i > 0 ? record_ends[i - 1] : 0) <= most)
            i++, n++;
        start = chunk_ends[chunk_count++] = record_ends[i - 1];
    }
    return true;
}

static void model_text(chance *c, kind k) {
    for (size_t i = 0; i < BYTES; i++) text[i] = (unsigned char)chance_next(c);
    size_t mean = (size_t)1 << chance_below(c, 11);
    for (size_t i = 0; k == LINES && i < BYTES; i++)
        text[i] = chance_below(c, mean) == 0 ? '\n' : (unsigned char)('a' + text[i] % 20);
    for (size_t i = 0; k == FASTA && i < BYTES; i++)
        text[i] = (unsigned char)"ACGT\nACGT>"[chance_below(c, mean % 7 == 0 ? 10 : 9)];
    for (size_t i = 0; k == FASTA && i + 1 < BYTES; i += 1 + (size_t)chance_below(c, mean + 1)) text[i] = '\n', text[i + 1] = '>';
}

/* -- Inputs --------------------------------------------------------------------------------------------- */

typedef enum way { MAPPED, FILE_READ, PIPE, SOURCE, WAYS } way;

typedef struct pourer {
    int fd;
    size_t size;
    chance c;
    pthread_t thread;
} pourer;
static void *pour(void *ctx) {
    pourer *p = ctx;
    for (size_t at = 0; at < p->size;) {
        size_t piece = 1 + (size_t)chance_below(&p->c, chance_below(&p->c, 8) == 0 ? 30000 : 600);
        if (piece > p->size - at) piece = p->size - at;
        ssize_t n = write(p->fd, text + at, piece);
        if (n < 0) break;
        at += (size_t)n;
    }
    close(p->fd);
    return NULL;
}

typedef struct teller {
    size_t size;
    chance c;
    atomic_size_t told;
} teller;
static sagemem_status tell(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    teller *t = ctx;
    size_t left = t->size - (size_t)offset, n = 1 + (size_t)chance_below(&t->c, 3000);
    if (n > size) n = size;
    if (n > left) n = left;
    memcpy(to, text + offset, n);
    *got = n;
    atomic_store(&t->told, (size_t)offset + n);
    return SAGEMEM_OK;
}

typedef struct input {
    way way;
    sagemem_reader *reader;
    pourer pourer;
    teller teller;
    int fd;
} input;

static void input_open(input *in, way w, bool ahead, size_t size, size_t buffer, sagemem_heap *heap, uint64_t seed) {
    int ends[2];
    in->way = w;
    in->teller.size = in->pourer.size = size;
    in->teller.c.state = in->pourer.c.state = seed;
    atomic_store(&in->teller.told, 0);
    sagemem_input source = {tell, NULL, &in->teller, false};
    sagemem_reader_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.read_ahead = ahead;
    desc.buffer_bytes = buffer;
    if (w == MAPPED || w == FILE_READ) {
        int fd = open(path, O_WRONLY | O_CREAT, 0600); /* not emptied first: then some file systems wait for the disk at close */
        REQUIRE(fd >= 0 && pwrite(fd, text, size, 0) == (ssize_t)size && ftruncate(fd, (off_t)size) == 0, "no file");
        close(fd);
        desc.path = path;
        desc.no_mapping = w == FILE_READ;
    } else if (w == PIPE) {
        REQUIRE(pipe(ends) == 0, "no pipe");
        in->fd = ends[0];
        in->pourer.fd = ends[1];
        desc.fd_plus_one = ends[0] + 1;
    } else {
        desc.source = &source;
    }
    in->reader = sagemem_reader_open(&desc);
    REQUIRE(in->reader != NULL, "no reader");
    if (w == PIPE) REQUIRE(pthread_create(&in->pourer.thread, NULL, pour, &in->pourer) == 0, "no thread");
}
static void input_close(input *in) {
    REQUIRE(sagemem_reader_close(in->reader) == SAGEMEM_OK, "not closed");
    if (in->way != PIPE) return;
    close(in->fd); /* the pourer gives up, if it has not ended */
    pthread_join(in->pourer.thread, NULL);
}

/* -- What is done with chunks ----------------------------------------------------------------------------- */

typedef struct work {
    pthread_mutex_t lock;
    unsigned char seen[CHUNKS]; /* how often each chunk was processed */
    size_t next, done;          /* in order: the next chunk */
    int now, most;              /* calls under way; at most */
    bool unordered;
    size_t fails_from, lowest; /* chunks from this one on fail, now and then; the first that did */
    unsigned fails_in;
    bool over; /* run has returned */
    teller *teller;
    size_t furthest; /* bytes that were read and not yet processed, at most */
} work;

static size_t chunk_number(uint64_t offset) {
    size_t low = 0, high = chunk_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (chunk_ends[middle] <= offset) low = middle + 1;
        else high = middle;
    }
    return low;
}
static sagemem_status process(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    work *w = ctx;
    pthread_mutex_lock(&w->lock);
    size_t i = chunk_number(offset), start = i > 0 ? chunk_ends[i - 1] : 0;
    REQUIRE(!w->over, "process_fn is called after the end");
    REQUIRE(i < chunk_count && offset == start, "no chunk begins at byte %llu", UINT(offset));
    REQUIRE(size == chunk_ends[i] - start, "chunk %zu has %zu bytes instead of %zu", i, size, chunk_ends[i] - start);
    REQUIRE(w->seen[i]++ == 0, "chunk %zu comes twice", i);
    if (++w->now > w->most) w->most = w->now;
    REQUIRE(w->unordered || (w->now == 1 && i == w->next), "chunk %zu is not in order", i);
    w->next++;
    pthread_mutex_unlock(&w->lock);
    REQUIRE(memcmp(chunk, text + start, size) == 0, "the bytes of chunk %zu are others", i);
    void *block = sagemem_alloc(NULL, size % 1000, TAG + 1); /* a heap of the thread's own */
    REQUIRE(block != NULL, "no memory");
    sagemem_free(block);
    pthread_mutex_lock(&w->lock);
    w->now--;
    w->done += size;
    bool fails = i >= w->fails_from && (i * 2654435761u >> 7) % w->fails_in == 0;
    if (fails && i < w->lowest) w->lowest = i;
    if (w->teller != NULL && atomic_load(&w->teller->told) - w->done > w->furthest)
        w->furthest = atomic_load(&w->teller->told) - w->done;
    pthread_mutex_unlock(&w->lock);
    return fails ? (sagemem_status)(SAGEMEM_E_FULL + i % 2) : SAGEMEM_OK;
}

static work *work_new(bool unordered) {
    static work w;
    memset(&w, 0, sizeof w);
    pthread_mutex_init(&w.lock, NULL);
    w.unordered = unordered;
    w.fails_from = w.lowest = SIZE_MAX;
    w.fails_in = 1;
    return &w;
}

/* -- Everything, at random -------------------------------------------------------------------------------- */

static sagemem_stream_desc random_desc(chance *c, kind k) {
    sagemem_stream_desc d = {0};
    if (k == LINES) d.delimiter_plus_one = '\n' + 1;
    if (k == SIZES) d.record_bytes = 1 + (size_t)chance_below(c, 5000);
    if (k == COUNTED) d.boundary_fn = counted;
    if (k == FASTA) d.boundary_fn = sagemem_fasta_boundary;
    d.chunk_bytes = chance_below(c, 4) == 0 ? 0 : 1 + (size_t)chance_below(c, (uint64_t)1 << chance_below(c, 16));
    if (k != ANY && chance_below(c, 2) == 0) d.chunk_records = 1 + (size_t)chance_below(c, 300);
    if (chance_below(c, 3) == 0) d.max_record_bytes = d.record_bytes + 1 + (size_t)chance_below(c, 3000);
    if (d.boundary_fn != NULL) d.max_record_bytes = 0; /* which for FASTA depends on what comes behind the record */
    d.buffer_count = (int)chance_below(c, 5);
    d.threads = (int)chance_below(c, 5);
    d.unordered = chance_below(c, 2) == 0;
    d.process_fn = process;
    /* A chunk of one byte each costs a wake-up: fewer of these. */
    if (k == ANY && d.chunk_bytes != 0 && d.chunk_bytes < 50) d.chunk_bytes = 50;
    return d;
}

static void one_stream(chance *c, way way_in, bool ahead) {
    kind k = (kind)chance_below(c, KINDS);
    size_t size = chance_below(c, 10) == 0 ? (size_t)chance_below(c, 3) : (size_t)chance_below(c, oracle_steps(BYTES, BYTES / 4));
    model_text(c, k);
    if (k == FASTA && size > 0 && text[size - 1] == '\n') text[size] = 'A'; /* it has no look at what is not there */
    sagemem_stream_desc d = random_desc(c, k);
    size_t most = d.max_record_bytes != 0 ? d.max_record_bytes : (size_t)64 * MIB;
    size_t bytes = d.chunk_bytes != 0 ? d.chunk_bytes : MIB;
    if (bytes < d.record_bytes) bytes = d.record_bytes;
    if (bytes > most) bytes = most;
    model_records(k, size, d.record_bytes);
    bool fits = model_chunks(bytes, d.chunk_records, most, k == FASTA);
    work *w = work_new(d.unordered);
    if (chance_below(c, 3) == 0 && chunk_count > 0) {
        w->fails_from = (size_t)chance_below(c, chunk_count);
        w->fails_in = 1 + (unsigned)chance_below(c, 3);
    }
    d.ctx = w;
    sagemem_heap_desc heap_desc = {0};
    heap_desc.flags = chance_below(c, 3) == 0 ? SAGEMEM_HEAP_SHARED : chance_below(c, 6) == 0 ? SAGEMEM_HEAP_CHECKED : 0;
    sagemem_heap *heap = sagemem_heap_create(&heap_desc);
    static input in;
    input_open(&in, way_in, ahead, size, 1 + (size_t)chance_below(c, 20000), heap, chance_next(c));
    d.reader = in.reader;
    sagemem_status status = sagemem_stream_run(&d);
    w->over = true;
    REQUIRE(w->now == 0, "process_fn is still running");
    REQUIRE(w->most <= (d.threads > 1 ? d.threads : 1), "%d calls at once with %d threads", w->most, d.threads);
    size_t processed = 0;
    for (size_t i = 0; i < chunk_count; i++) processed += w->seen[i];
    if (w->lowest != SIZE_MAX) {
        REQUIRE(status == (sagemem_status)(SAGEMEM_E_FULL + w->lowest % 2), "%s instead of that of chunk %zu",
                sagemem_status_name(status), w->lowest);
        REQUIRE(sagemem_last_error()->status == status, "another last error");
        for (size_t i = 0; i < w->lowest; i++) REQUIRE(w->seen[i] == 1, "chunk %zu, before the failure, was left out", i);
        for (size_t i = w->fails_from; i < w->lowest; i++)
            REQUIRE((i * 2654435761u >> 7) % w->fails_in != 0, "chunk %zu failed and is not the one that is told", i);
    } else {
        char where[64];
        snprintf(where, sizeof where, "at byte %zu ", chunk_count > 0 ? chunk_ends[chunk_count - 1] : 0);
        REQUIRE(status == (fits ? SAGEMEM_OK : SAGEMEM_E_TOO_BIG), "%s", sagemem_status_name(status));
        REQUIRE(processed == chunk_count, "%zu chunks of %zu", processed, chunk_count);
        REQUIRE(fits || strstr(sagemem_last_error()->message, where) != NULL, "does not say %s", where);
        if (fits) REQUIRE(sagemem_reader_position(in.reader) == size, "not at the end");
    }
    REQUIRE(sagemem_heap_check(heap) == 0, "damage");
    input_close(&in);
    sagemem_heap_stats stats;
    REQUIRE(sagemem_heap_get_stats(heap, &stats) == SAGEMEM_OK && stats.used == 0 && stats.mapped == 0, "something is left");
    sagemem_heap_destroy(heap);
}

static void streams_of(way w, bool ahead) {
    uint64_t seed = oracle_seed() + (uint64_t)w * 2 + ahead;
    print_message("SAGEMEM_SEED=%llu\n", UINT(oracle_seed()));
    chance c = {seed};
    for (unsigned round = 0; round < oracle_steps(60, 15); round++) one_stream(&c, w, ahead);
}
static void mapped(void **state) { (void)state, streams_of(MAPPED, false); }
static void mapped_ahead(void **state) { (void)state, streams_of(MAPPED, true); }
static void files(void **state) { (void)state, streams_of(FILE_READ, false); }
static void files_ahead(void **state) { (void)state, streams_of(FILE_READ, true); }
static void pipes(void **state) { (void)state, streams_of(PIPE, false); }
static void pipes_ahead(void **state) { (void)state, streams_of(PIPE, true); }
static void sources(void **state) { (void)state, streams_of(SOURCE, false); }
static void sources_ahead(void **state) { (void)state, streams_of(SOURCE, true); }

/* -- Threads ------------------------------------------------------------------------------------------------ */

/* Four calls are under way together, or the test ends by its time limit. */
static pthread_barrier_t meeting;
static sagemem_status meet(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)ctx, (void)chunk, (void)size, (void)offset;
    pthread_barrier_wait(&meeting);
    return SAGEMEM_OK;
}
static void unordered_is_at_the_same_time(void **state) {
    (void)state;
    for (way w = MAPPED; w < WAYS; w++) {
        input in;
        memset(text, 'x', BYTES);
        pthread_barrier_init(&meeting, NULL, 4);
        input_open(&in, w, false, 40000, 4096, NULL, 1);
        sagemem_stream_desc d = {0};
        d.reader = in.reader;
        d.chunk_bytes = 1000;
        d.process_fn = meet;
        d.threads = 4;
        d.unordered = true;
        assert_int_equal(sagemem_stream_run(&d), SAGEMEM_OK);
        input_close(&in);
        pthread_barrier_destroy(&meeting);
    }
}

static sagemem_status slowly(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    struct timespec pause = {0, 200000};
    nanosleep(&pause, NULL);
    return process(ctx, chunk, size, offset);
}
/* What was read and not yet processed is bounded: by the chunks that may wait, those under way, and the reader's buffer. */
static void slow_work_holds_the_input_back(void **state) {
    (void)state;
    memset(text, 'x', BYTES);
    for (int threads = 1; threads < 4; threads++)
        for (int buffers = 1; buffers < 4; buffers++) {
            input in;
            model_records(ANY, 40000, 1);
            assert_true(model_chunks(500, 0, MIB, 0));
            input_open(&in, SOURCE, false, 40000, 500, NULL, 1);
            work *w = work_new(true);
            w->teller = &in.teller;
            sagemem_stream_desc d = {0};
            d.reader = in.reader;
            d.chunk_bytes = 500;
            d.process_fn = slowly;
            d.ctx = w;
            d.threads = threads;
            d.buffer_count = buffers;
            d.unordered = true;
            assert_int_equal(sagemem_stream_run(&d), SAGEMEM_OK);
            assert_int_equal(w->done, 40000);
            size_t chunks = threads == 1 ? 1 : (size_t)(threads + buffers);
            assert_true(w->furthest <= (chunks + 1) * 500);
            sagemem_tag_stats stats;
            assert_int_equal(sagemem_tag_get_stats(NULL, TAG, &stats), SAGEMEM_OK);
            input_close(&in);
        }
}

/* A failure ends the stream, although the input is silent: the caller is waiting for it. */
static sagemem_status refuse(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)ctx, (void)chunk, (void)size, (void)offset;
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL); /* until the caller waits */
    return SAGEMEM_E_CLOSED;
}
static void failure_ends_the_wait(void **state) {
    (void)state;
    for (int how = 0; how < 4; how++) {
        int ends[2];
        assert_int_equal(how % 2 == 0 ? pipe(ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(write(ends[1], "one\ntwo\n", 8), 8);
        sagemem_reader_desc desc = {0};
        desc.fd_plus_one = ends[0] + 1;
        desc.read_ahead = how >= 2;
        desc.tag = TAG;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        sagemem_stream_desc d = {0};
        d.reader = reader;
        d.delimiter_plus_one = '\n' + 1;
        d.chunk_records = 1;
        d.process_fn = refuse;
        d.threads = 2;
        alarm(CHILD_SECONDS);
        assert_int_equal(sagemem_stream_run(&d), SAGEMEM_E_CLOSED);
        alarm(0);
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_CLOSED);
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
        close(ends[0]);
        close(ends[1]);
    }
}

/* Question and answer: the other end sends the next line when it has got an answer to this one. */
static void *ask(void *ctx) {
    int fd = *(int *)ctx;
    char answer;
    for (int i = 0; i < 50; i++) {
        if (write(fd, "?\n", 2) != 2 || read(fd, &answer, 1) != 1) abort();
    }
    shutdown(fd, SHUT_WR);
    return NULL;
}
static sagemem_status answer(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    (void)chunk, (void)offset;
    assert_int_equal(size, 2);
    return write(*(int *)ctx, "!", 1) == 1 ? SAGEMEM_OK : SAGEMEM_E_IO;
}
static void no_byte_is_waited_for_in_vain(void **state) {
    (void)state;
    for (int how = 0; how < 4; how++) {
        int ends[2];
        pthread_t other;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(pthread_create(&other, NULL, ask, &ends[1]), 0);
        sagemem_reader_desc desc = {0};
        desc.fd_plus_one = ends[0] + 1;
        desc.read_ahead = how % 2 == 1;
        desc.tag = TAG;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        sagemem_stream_desc d = {0};
        d.reader = reader;
        d.delimiter_plus_one = '\n' + 1;
        d.chunk_records = 1;
        d.process_fn = answer;
        d.ctx = &ends[0];
        d.threads = 1 + how / 2;
        alarm(CHILD_SECONDS);
        assert_int_equal(sagemem_stream_run(&d), SAGEMEM_OK);
        alarm(0);
        assert_int_equal(sagemem_reader_position(reader), 100);
        pthread_join(other, NULL);
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
        close(ends[0]);
        close(ends[1]);
    }
}

/* The heap of the reader is free for process_fn while the stream waits. */
static sagemem_heap *shared;
static sagemem_status allocates(void *ctx, const void *chunk, size_t size, uint64_t offset) {
    void *copy = sagemem_memdup(shared, chunk, size, TAG);
    assert_non_null(copy);
    sagemem_free(copy);
    return answer(ctx, chunk, size, offset);
}
static void shared_heap_is_free_meanwhile(void **state) {
    (void)state;
    sagemem_heap_desc heap_desc = {0};
    heap_desc.flags = SAGEMEM_HEAP_SHARED;
    shared = sagemem_heap_create(&heap_desc);
    for (int ahead = 0; ahead < 2; ahead++) {
        int ends[2];
        pthread_t other;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(pthread_create(&other, NULL, ask, &ends[1]), 0);
        sagemem_reader_desc desc = {0};
        desc.fd_plus_one = ends[0] + 1;
        desc.read_ahead = ahead;
        desc.heap = shared;
        desc.tag = TAG;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        sagemem_stream_desc d = {0};
        d.reader = reader;
        d.delimiter_plus_one = '\n' + 1;
        d.chunk_records = 1;
        d.process_fn = allocates;
        d.ctx = &ends[0];
        d.threads = 3;
        d.unordered = true;
        alarm(CHILD_SECONDS);
        assert_int_equal(sagemem_stream_run(&d), SAGEMEM_OK);
        alarm(0);
        pthread_join(other, NULL);
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
        close(ends[0]);
        close(ends[1]);
    }
    sagemem_heap_destroy(shared);
}

/* More threads than the system gives: the others do their work. */
static void many_threads(void **state) {
    (void)state;
    chance c = {oracle_seed()};
    model_text(&c, LINES);
    model_records(LINES, BYTES, 0);
    assert_true(model_chunks(300, 0, MIB, 0));
    input in;
    input_open(&in, FILE_READ, false, BYTES, 4096, NULL, 1);
    work *w = work_new(true);
    sagemem_stream_desc d = {0};
    d.reader = in.reader;
    d.delimiter_plus_one = '\n' + 1;
    d.chunk_bytes = 300;
    d.process_fn = process;
    d.ctx = w;
    d.threads = UNDER_ASAN || on_valgrind() ? 20 : 200;
    d.unordered = true;
    assert_int_equal(sagemem_stream_run(&d), SAGEMEM_OK);
    assert_int_equal(w->done, BYTES);
    input_close(&in);
}

static int begin(void **state) {
    (void)state;
    sagemem_set_fault_handler(on_fault, NULL);
    signal(SIGPIPE, SIG_IGN); /* whoever pours into a pipe is told */
    snprintf(directory, sizeof directory, "/tmp/sagemem-stream-XXXXXX");
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(path, sizeof path, "%s/input", directory);
    return 0;
}
static int end(void **state) {
    (void)state;
    unlink(path);
    return rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mapped),
        cmocka_unit_test(mapped_ahead),
        cmocka_unit_test(files),
        cmocka_unit_test(files_ahead),
        cmocka_unit_test(pipes),
        cmocka_unit_test(pipes_ahead),
        cmocka_unit_test(sources),
        cmocka_unit_test(sources_ahead),
        cmocka_unit_test(unordered_is_at_the_same_time),
        cmocka_unit_test(slow_work_holds_the_input_back),
        cmocka_unit_test(failure_ends_the_wait),
        cmocka_unit_test(no_byte_is_waited_for_in_vain),
        cmocka_unit_test(shared_heap_is_free_meanwhile),
        cmocka_unit_test(many_threads),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
