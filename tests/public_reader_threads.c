/* Readers against arrays: every input, random mixes of calls, with and without a thread that reads ahead. */
#include "public.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

enum { TAG = 7, BYTES = 300000, BUFFER = 4096 };

static unsigned char model[BYTES];
static char directory[64], path[80];
static uint64_t seed = 20260101;

/* splitmix64 */
typedef struct rng {
    uint64_t at;
} rng;
static uint64_t draw(rng *r) {
    uint64_t z = r->at += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static size_t draw_to(rng *r, size_t most) { return (size_t)(draw(r) % (most + 1)); }

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    fprintf(stderr, "fault: %s: %s\n", error->call, error->message);
    abort();
}

static bool slow(void) { return UNDER_ASAN || getenv("SAGEMEM_TEST_SLOW") != NULL; }
static size_t bytes(void) { return slow() ? BYTES / 4 : BYTES; }

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* -- Inputs --------------------------------------------------------------------------------------------- */

/* Writes the model in odd pieces, and closes its end. */
typedef struct pourer {
    int fd;
    size_t size;
    rng random;
    pthread_t thread;
} pourer;
static void *pour(void *ctx) {
    pourer *p = ctx;
    for (size_t at = 0; at < p->size;) {
        size_t piece = 1 + draw_to(&p->random, draw(&p->random) % 8 == 0 ? 70000 : 500);
        if (piece > p->size - at) piece = p->size - at;
        ssize_t n = write(p->fd, model + at, piece);
        if (n < 0) break; /* the reader is gone */
        at += (size_t)n;
    }
    close(p->fd);
    return NULL;
}

/* Delivers the model in pieces, fails now and then, and insists on being asked in order. */
typedef struct teller {
    size_t size;
    uint64_t next;
    unsigned fails_in; /* one of so many calls fails; 0: none */
    bool seekable;
    int closed;
    rng random;
    bool disorder;
} teller;
static sagemem_status tell(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    teller *t = ctx;
    if (t->fails_in > 0 && draw(&t->random) % t->fails_in == 0) return SAGEMEM_E_TIMEOUT;
    if (offset != t->next && !t->seekable) t->disorder = true;
    size_t left = offset < t->size ? t->size - (size_t)offset : 0, n = 1 + draw_to(&t->random, BUFFER);
    if (n > size) n = size;
    if (n > left) n = left;
    memcpy(to, model + offset, n);
    *got = n;
    t->next = offset + n;
    return SAGEMEM_OK;
}
static sagemem_status tell_close(void *ctx) {
    ((teller *)ctx)->closed++;
    return SAGEMEM_OK;
}

typedef enum kind { MAPPED, FILE_PATH, FILE_FD, PIPE, SOCKET, SOURCE, SEEKABLE, KINDS } kind;
static const char *const kind_names[] = {"mapped", "path", "descriptor", "pipe", "socket", "source", "seekable source"};

typedef struct input {
    kind kind;
    bool ahead;
    sagemem_reader *reader;
    pourer pourer;
    teller teller;
    int fd;
} input;

static void input_open(input *in, kind k, bool ahead, sagemem_heap *heap, rng *random) {
    memset(in, 0, sizeof *in);
    in->kind = k;
    in->ahead = ahead;
    in->fd = -1;
    sagemem_reader_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.buffer_bytes = draw(random) % 4 == 0 ? 1 + draw_to(random, 100) : BUFFER;
    desc.read_ahead = ahead;
    desc.buffers = ahead ? (int)draw_to(random, 5) : 0;
    if (desc.buffers == 1) desc.buffers = 2;
    sagemem_input source = {tell, tell_close, &in->teller, k == SEEKABLE};
    int ends[2];
    switch (k) {
    case MAPPED: desc.path = path; break;
    case FILE_PATH:
        desc.path = path;
        desc.no_mapping = true;
        break;
    case FILE_FD:
        in->fd = open(path, O_RDONLY);
        assert_true(in->fd >= 0);
        assert_int_equal(lseek(in->fd, 12345, SEEK_SET), 12345);
        desc.fd_plus_one = in->fd + 1;
        desc.no_mapping = true;
        break;
    case PIPE:
    case SOCKET:
        assert_int_equal(k == PIPE ? pipe(ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        desc.fd_plus_one = ends[0] + 1;
        in->fd = ends[0];
        in->pourer.fd = ends[1];
        in->pourer.size = bytes();
        in->pourer.random.at = draw(random);
        break;
    case SOURCE:
    case SEEKABLE:
    default:
        in->teller.size = bytes();
        in->teller.seekable = source.seekable;
        in->teller.fails_in = draw(random) % 2 == 0 ? 5 : 0;
        in->teller.random.at = draw(random);
        desc.source = &source;
    }
    in->reader = sagemem_reader_open(&desc);
    if (in->reader == NULL) fail_msg("%s: %s", kind_names[k], sagemem_last_error()->message);
    assert_int_equal(sagemem_reader_is_mapped(in->reader), k == MAPPED);
    if (k == PIPE || k == SOCKET) assert_int_equal(pthread_create(&in->pourer.thread, NULL, pour, &in->pourer), 0);
}

static void input_close(input *in) {
    assert_int_equal(sagemem_reader_close(in->reader), SAGEMEM_OK);
    if (in->kind == FILE_FD) assert_int_equal(lseek(in->fd, 0, SEEK_CUR), 12345); /* its position was not moved */
    if (in->fd >= 0) close(in->fd);
    if (in->kind == PIPE || in->kind == SOCKET) pthread_join(in->pourer.thread, NULL);
    if (in->kind == SOURCE || in->kind == SEEKABLE) {
        assert_int_equal(in->teller.closed, 1);
        assert_false(in->teller.disorder);
    }
}

/* -- The walk ------------------------------------------------------------------------------------------- */

typedef struct walker {
    input *in;
    size_t at, size;
    rng random;
    unsigned char room[6 * BUFFER];
} walker;

/* What a source's random failures look like. */
static bool was_refused(const walker *w, sagemem_status status) {
    if (status != SAGEMEM_E_TIMEOUT || w->in->teller.fails_in == 0) return false;
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_TIMEOUT);
    return true;
}

static size_t some_size(walker *w) {
    switch (draw(&w->random) % 8) {
    case 0: return 0;
    case 1: return draw_to(&w->random, 3 * BUFFER);
    case 2: return BUFFER - 1 + draw_to(&w->random, 2);
    default: return draw_to(&w->random, 400);
    }
}

static void walk_read(walker *w, size_t size) {
    size_t got = 99, left = w->size - w->at, done = 0;
    size_t wanted = left < size ? left : size;
    memset(w->room, 0xEE, sizeof w->room);
    for (;;) {
        sagemem_status status = sagemem_read(w->in->reader, w->room + done, size - done, &got);
        done += got;
        if (was_refused(w, status)) continue; /* what came before it is good, the rest can be had */
        assert_int_equal(status, SAGEMEM_OK);
        break;
    }
    assert_int_equal(done, wanted);
    assert_memory_equal(w->room, model + w->at, done);
    assert_int_equal(w->room[done], 0xEE);
    w->at += done;
}

static void walk_view(walker *w, size_t size) {
    const void *view;
    do view = sagemem_read_view(w->in->reader, size);
    while (view == NULL && was_refused(w, sagemem_last_error()->status));
    if (size > w->size - w->at) {
        assert_null(view);
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_EMPTY);
        return;
    }
    assert_non_null(view);
    assert_memory_equal(view, model + w->at, size);
    w->at += size;
}

static void walk_skip(walker *w, size_t size) {
    size_t left = w->size - w->at;
    for (;;) {
        uint64_t before = sagemem_reader_position(w->in->reader);
        sagemem_status status = sagemem_reader_skip(w->in->reader, size);
        if (was_refused(w, status)) {
            size_t skipped = (size_t)(sagemem_reader_position(w->in->reader) - before);
            size -= skipped;
            w->at += skipped;
            left -= skipped;
            continue;
        }
        assert_int_equal(status, size > left ? SAGEMEM_E_EMPTY : SAGEMEM_OK);
        break;
    }
    w->at += size > left ? left : size;
}

static void walk_at(walker *w, size_t size) {
    uint64_t offset = draw_to(&w->random, w->size + 10);
    sagemem_status status;
    do status = sagemem_read_at(w->in->reader, offset, w->room, size);
    while (was_refused(w, status));
    if (w->in->kind == PIPE || w->in->kind == SOCKET || w->in->kind == SOURCE) {
        assert_int_equal(status, SAGEMEM_E_UNSUPPORTED);
    } else if (size > 0 && offset + size > w->size) {
        assert_int_equal(status, SAGEMEM_E_EMPTY);
    } else {
        assert_int_equal(status, SAGEMEM_OK);
        assert_memory_equal(w->room, model + offset, size);
    }
}

static void walk(input *in, rng *random, sagemem_heap *heap) {
    walker w;
    memset(&w, 0, sizeof w);
    w.in = in;
    w.size = bytes();
    w.random.at = draw(random);
    bool plain = in->kind == MAPPED || in->kind == FILE_PATH || in->kind == FILE_FD;
    for (unsigned step = 0, at_end = 0; at_end < 6; step++) {
        size_t size = some_size(&w);
        switch (draw(&w.random) % 8) {
        case 0:
        case 1:
        case 2: walk_read(&w, size); break;
        case 3:
        case 4:
        case 5: walk_view(&w, size); break;
        case 6: walk_skip(&w, draw(&w.random) % 64 == 0 ? 10 * BUFFER : size); break;
        default: walk_at(&w, size);
        }
        assert_int_equal(sagemem_reader_position(in->reader), w.at);
        if (plain) assert_int_equal(sagemem_reader_size(in->reader), w.size);
        if (step % 64 == 0) assert_int_equal(sagemem_heap_check(heap), 0);
        if (w.at == w.size) at_end++;
    }
    walk_read(&w, 1);
    assert_int_equal(sagemem_reader_size(in->reader), w.size); /* known by now, of whatever */
}

static void walks(kind k, bool ahead) {
    rng random = {seed + (uint64_t)k * 2 + ahead};
    for (int round = 0; round < (slow() ? 2 : 6); round++) {
        sagemem_heap_desc desc = {0};
        desc.flags = round == 1 ? SAGEMEM_HEAP_CHECKED : round == 2 ? SAGEMEM_HEAP_SHARED : round == 3 ? SAGEMEM_HEAP_SYSTEM : 0;
        sagemem_heap *heap = sagemem_heap_create(&desc);
        assert_non_null(heap);
        input in;
        input_open(&in, k, ahead, heap, &random);
        walk(&in, &random, heap);
        input_close(&in);
        sagemem_tag_stats stats;
        assert_int_equal(sagemem_tag_get_stats(heap, TAG, &stats), SAGEMEM_OK);
        assert_int_equal(stats.used, 0);
        assert_int_equal(stats.blocks, 0);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

static void mapped_file(void **state) { (void)state, walks(MAPPED, false); }
static void mapped_file_ahead(void **state) { (void)state, walks(MAPPED, true); }
static void file_by_path(void **state) { (void)state, walks(FILE_PATH, false); }
static void file_by_path_ahead(void **state) { (void)state, walks(FILE_PATH, true); }
static void file_by_descriptor(void **state) { (void)state, walks(FILE_FD, false); }
static void file_by_descriptor_ahead(void **state) { (void)state, walks(FILE_FD, true); }
static void pipes(void **state) { (void)state, walks(PIPE, false); }
static void pipes_ahead(void **state) { (void)state, walks(PIPE, true); }
static void sockets(void **state) { (void)state, walks(SOCKET, false); }
static void sockets_ahead(void **state) { (void)state, walks(SOCKET, true); }
static void sources(void **state) { (void)state, walks(SOURCE, false); }
static void sources_ahead(void **state) { (void)state, walks(SOURCE, true); }
static void seekable_sources(void **state) { (void)state, walks(SEEKABLE, false); }
static void seekable_sources_ahead(void **state) { (void)state, walks(SEEKABLE, true); }

/* -- The thread ----------------------------------------------------------------------------------------- */

static sagemem_reader *ahead_of_fd(int fd, sagemem_heap *heap) {
    sagemem_reader_desc desc = {0};
    desc.fd_plus_one = fd + 1;
    desc.buffer_bytes = 1000;
    desc.read_ahead = desc.no_mapping = true;
    desc.heap = heap;
    desc.tag = TAG;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    assert_non_null(reader);
    return reader;
}

static void idle_pipe_closes_at_once(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    for (int i = 0; i < 20; i++) {
        sagemem_reader *reader = ahead_of_fd(ends[0], NULL);
        if (i % 2 == 0) usleep(2000); /* the thread waits for the pipe by then, or it does not */
        uint64_t before = now_ms();
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
        assert_true(now_ms() - before < 2000);
    }
    /* With bytes that nobody wants, too. */
    assert_int_equal(write(ends[1], model, 8000), 8000);
    sagemem_reader *reader = ahead_of_fd(ends[0], NULL);
    usleep(2000);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    close(ends[0]);
    close(ends[1]);
}

static void pipe_brings_what_is_there(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    sagemem_reader *reader = ahead_of_fd(ends[0], NULL);
    unsigned char byte;
    for (int i = 0; i < 50; i++) { /* a request and its answer: the reader must not wait for more */
        assert_int_equal(write(ends[1], model + i, 1), 1);
        assert_int_equal(sagemem_read(reader, &byte, 1, NULL), SAGEMEM_OK);
        assert_int_equal(byte, model[i]);
    }
    close(ends[1]);
    assert_int_equal(sagemem_read(reader, &byte, 1, NULL), SAGEMEM_E_EMPTY);
    assert_int_equal(sagemem_reader_size(reader), 50);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    close(ends[0]);
}

/* A descriptor that does not block is waited for by the thread. */
static void nonblocking_pipe_is_waited_for(void **state) {
    (void)state;
    pourer p = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    p.fd = ends[1];
    p.size = 20000;
    sagemem_reader *reader = ahead_of_fd(ends[0], NULL);
    assert_int_equal(pthread_create(&p.thread, NULL, pour, &p), 0);
    const void *view = sagemem_read_view(reader, 20000);
    assert_non_null(view);
    assert_memory_equal(view, model, 20000);
    pthread_join(p.thread, NULL);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    close(ends[0]);
}

/* Says what it is told to, call by call. */
typedef struct script {
    const char *text; /* 'b': 100 bytes, 'f': a failure with a message, 'l': too many bytes, 'e': the end */
    size_t calls;     /* the test looks at it while the thread may be calling */
    uint64_t given;
} script;
static sagemem_status play(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    script *s = ctx;
    char what = s->text[s->calls];
    if (what == '\0') return SAGEMEM_OK;
    __atomic_fetch_add(&s->calls, 1, __ATOMIC_RELAXED);
    if (offset != s->given) return SAGEMEM_E_CORRUPT;
    if (what == 'f') {
        (void)sagemem_tag_define(0, "Fails/Here"); /* sets this thread's last error to E_ARGUMENT */
        return SAGEMEM_E_ARGUMENT;
    }
    *got = what == 'l' ? size + 1 : what == 'b' ? 100 : 0;
    if (what != 'b') return SAGEMEM_OK;
    memcpy(to, model + offset, 100);
    s->given += 100;
    return SAGEMEM_OK;
}

static void failures_come_in_order(void **state) {
    (void)state;
    script s = {"bbfbfflbebe", 0, 0};
    sagemem_input source = {play, NULL, &s, false};
    sagemem_reader_desc desc = {0};
    desc.source = &source;
    desc.buffer_bytes = 128;
    desc.read_ahead = true;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    assert_non_null(reader);
    usleep(3000); /* it is as far as it gets without being asked */
    unsigned char room[1000];
    size_t got;
    static const struct {
        sagemem_status status;
        size_t got;
    } expected[] = {{SAGEMEM_E_ARGUMENT, 200}, {SAGEMEM_E_ARGUMENT, 100}, {SAGEMEM_E_ARGUMENT, 0}, {SAGEMEM_E_CORRUPT, 0}};
    size_t at = 0;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(sagemem_read(reader, room, 1000, &got), expected[i].status);
        assert_int_equal(got, expected[i].got);
        assert_memory_equal(room, model + at, got);
        at += got;
        assert_int_equal(sagemem_last_error()->status, expected[i].status);
        assert_string_equal(sagemem_last_error()->call, "sagemem_read");
        if (i < 3) assert_non_null(strstr(sagemem_last_error()->message, "tag")); /* the reason came over from the thread */
        size_t calls = __atomic_load_n(&s.calls, __ATOMIC_RELAXED);
        usleep(3000);
        assert_int_equal(__atomic_load_n(&s.calls, __ATOMIC_RELAXED), calls); /* nothing is retried before it is asked for */
    }
    assert_int_equal(sagemem_read(reader, room, 100, &got), SAGEMEM_OK);
    assert_int_equal(got, 100);
    usleep(1000); /* it meets an end; asked, it looks again and finds more */
    assert_int_equal(sagemem_read(reader, room, 1000, &got), SAGEMEM_OK);
    assert_int_equal(got, 100);
    assert_memory_equal(room, model + 400, 100);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
}

static void file_that_grows_is_followed(void **state) {
    (void)state;
    char name[100];
    snprintf(name, sizeof name, "%s/grows", directory);
    FILE *file = fopen(name, "wb");
    assert_non_null(file);
    setvbuf(file, NULL, _IONBF, 0);
    sagemem_reader_desc desc = {0};
    desc.path = name;
    desc.no_mapping = desc.read_ahead = true;
    desc.buffer_bytes = 512;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    assert_non_null(reader);
    unsigned char room[1000];
    for (size_t at = 0; at < 20000; at += 1000) {
        size_t got;
        usleep(200);
        assert_int_equal(fwrite(model + at, 1, 1000, file), 1000);
        assert_int_equal(sagemem_read(reader, room, 1000, &got), SAGEMEM_OK); /* although the thread had met the end before */
        assert_int_equal(got, 1000);
        assert_memory_equal(room, model + at, 1000);
        if (at % 3000 != 0) continue;
        assert_int_equal(sagemem_read(reader, room, 1, &got), SAGEMEM_OK);
        assert_int_equal(got, 0);
    }
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    fclose(file);
    unlink(name);
}

static void skips_of_files_drop_what_was_read(void **state) {
    (void)state;
    rng random = {seed + 1000};
    for (int round = 0; round < 200; round++) {
        sagemem_reader_desc desc = {0};
        desc.path = path;
        desc.no_mapping = desc.read_ahead = true;
        desc.buffer_bytes = 100;
        desc.buffers = 2;
        sagemem_reader *reader = sagemem_reader_open(&desc);
        assert_non_null(reader);
        unsigned char room[150];
        for (size_t at = 0;;) {
            size_t far = draw_to(&random, 30000), got;
            sagemem_status status = sagemem_reader_skip(reader, far);
            if (at + far > bytes()) {
                assert_int_equal(status, SAGEMEM_E_EMPTY);
                assert_int_equal(sagemem_reader_position(reader), bytes());
                break;
            }
            at += far;
            assert_int_equal(status, SAGEMEM_OK);
            assert_int_equal(sagemem_read(reader, room, 150, &got), SAGEMEM_OK);
            assert_memory_equal(room, model + at, got);
            at += got;
        }
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    }
}

/* -- Fork ----------------------------------------------------------------------------------------------- */

#ifdef __SANITIZE_THREAD__
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

static sagemem_reader *forked_reader;
static size_t forked_at;

#define child_check(condition)                                                                                                     \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition,                           \
                    sagemem_last_error()->message);                                                                                \
            _exit(2);                                                                                                              \
        }                                                                                                                          \
    } while (0)

static void child_reads_file(void) {
    static unsigned char room[BYTES];
    size_t got;
    child_check(sagemem_read(forked_reader, room, sizeof room, &got) == SAGEMEM_OK);
    child_check(got == bytes() - forked_at && memcmp(room, model + forked_at, got) == 0);
    child_check(sagemem_read_at(forked_reader, 5, room, 100) == SAGEMEM_OK && memcmp(room, model + 5, 100) == 0);
    child_check(sagemem_reader_close(forked_reader) == SAGEMEM_OK);
}

/* What lies ready can be read; what comes next is the parent's. */
static void child_reads_stream(void) {
    unsigned char room[4000];
    size_t got;
    child_check(sagemem_read(forked_reader, room, sizeof room, &got) == SAGEMEM_E_BUSY);
    child_check(got == 900 && memcmp(room, model + forked_at, got) == 0);
    child_check(sagemem_read_view(forked_reader, 1) == NULL && sagemem_last_error()->status == SAGEMEM_E_BUSY);
    child_check(sagemem_reader_skip(forked_reader, 1) == SAGEMEM_E_BUSY);
    child_check(sagemem_reader_position(forked_reader) == forked_at + 900);
    child_check(sagemem_heap_check(NULL) == 0);
    child_check(sagemem_reader_close(forked_reader) == SAGEMEM_OK);
}

static void in_child(void (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) fail_msg("the child was killed by signal %d", WTERMSIG(status));
    if (on_valgrind() && WEXITSTATUS(status) == 1) return; /* it does not like what the child left behind */
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void file_goes_on_after_fork(void **state) {
    (void)state;
#ifdef UNDER_TSAN
    skip(); /* it ends a child that was forked beside threads */
#endif
    unsigned char room[5000];
    for (int i = 0; i < 10; i++) {
        sagemem_reader_desc desc = {0};
        desc.path = path;
        desc.no_mapping = desc.read_ahead = true;
        desc.buffer_bytes = 1000;
        desc.buffers = 2;
        forked_reader = sagemem_reader_open(&desc);
        assert_non_null(forked_reader);
        forked_at = (size_t)i * 333;
        assert_int_equal(sagemem_read(forked_reader, room, forked_at, NULL), SAGEMEM_OK);
        in_child(child_reads_file);
        assert_int_equal(sagemem_read(forked_reader, room, 5000, NULL), SAGEMEM_OK);
        assert_memory_equal(room, model + forked_at, 5000);
        assert_int_equal(sagemem_reader_close(forked_reader), SAGEMEM_OK);
    }
}

static void stream_is_the_parents_after_fork(void **state) {
    (void)state;
#ifdef UNDER_TSAN
    skip();
#endif
    int ends[2];
    unsigned char room[4000];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], model, 4000), 4000);
    forked_reader = ahead_of_fd(ends[0], NULL);
    forked_at = 100;
    assert_int_equal(sagemem_read(forked_reader, room, 100, NULL), SAGEMEM_OK);
    in_child(child_reads_stream);
    assert_int_equal(sagemem_read(forked_reader, room, 3900, NULL), SAGEMEM_OK);
    assert_memory_equal(room, model + 100, 3900);
    assert_int_equal(sagemem_reader_close(forked_reader), SAGEMEM_OK);
    close(ends[0]);
    close(ends[1]);
}

/* -- Owners --------------------------------------------------------------------------------------------- */

/* Threads share a reader of a shared heap: each byte is read by one of them. */
static sagemem_reader *shared_reader;
static uint64_t shared_sum;
static void *read_shared(void *ctx) {
    (void)ctx;
    unsigned char room[64];
    for (size_t got = 1; got > 0;) {
        if (sagemem_read(shared_reader, room, sizeof room, &got) != SAGEMEM_OK) return NULL;
        uint64_t sum = 0;
        for (size_t i = 0; i < got; i++) sum += room[i];
        __atomic_fetch_add(&shared_sum, sum, __ATOMIC_RELAXED);
    }
    return ctx;
}

static void shared_reader_serves_threads(void **state) {
    (void)state;
    sagemem_heap_desc heap_desc = {0};
    heap_desc.flags = SAGEMEM_HEAP_SHARED;
    sagemem_heap *heap = sagemem_heap_create(&heap_desc);
    assert_non_null(heap);
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes(); i++) sum += model[i];
    for (int ahead = 0; ahead < 2; ahead++) {
        sagemem_reader_desc desc = {0};
        desc.path = path;
        desc.heap = heap;
        desc.no_mapping = true;
        desc.read_ahead = ahead;
        desc.buffer_bytes = 1000;
        shared_reader = sagemem_reader_open(&desc);
        assert_non_null(shared_reader);
        shared_sum = 0;
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, read_shared, &threads), 0);
        for (int i = 0; i < 3; i++) {
            void *well;
            pthread_join(threads[i], &well);
            assert_non_null(well);
        }
        assert_int_equal(shared_sum, sum);
        assert_int_equal(sagemem_reader_close(shared_reader), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
}

/* A thread ends with a scope open, in which a reader waits for a pipe that stays silent. */
static void *leave_reader(void *ctx) {
    const int *fd = ctx;
    if (sagemem_scope_begin(NULL, "reading", 1) != SAGEMEM_OK) return NULL;
    sagemem_reader_desc desc = {0};
    desc.fd_plus_one = *fd + 1;
    desc.read_ahead = true;
    desc.tag = TAG;
    return sagemem_reader_open(&desc) != NULL ? ctx : NULL;
}
static void readers_end_with_thread_heap_and_scope(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pthread_t thread;
    void *well;
    assert_int_equal(pthread_create(&thread, NULL, leave_reader, &ends[0]), 0);
    pthread_join(thread, &well);
    assert_non_null(well);

    sagemem_heap *heap = sagemem_heap_create(NULL);
    assert_non_null(heap);
    ahead_of_fd(ends[0], heap);
    assert_int_equal(sagemem_scope_begin(heap, "reading", 2), SAGEMEM_OK);
    ahead_of_fd(ends[0], heap);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_heap_reset(heap);
    ahead_of_fd(ends[0], heap);
    sagemem_heap_destroy(heap);
    close(ends[0]);
    /* All copies of the descriptor are closed: nobody can read the pipe now. */
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(write(ends[1], model, 1), -1);
    assert_int_equal(errno, EPIPE);
    close(ends[1]);
}

static void *adopt_and_read(void *ctx) {
    sagemem_reader *reader = ctx;
    unsigned char room[3000];
    sagemem_heap *heap = NULL;
    sagemem_reader_desc desc;
    (void)heap;
    if (sagemem_reader_get_desc(reader, &desc) != SAGEMEM_OK) return NULL;
    if (sagemem_read(reader, room, sizeof room, NULL) != SAGEMEM_OK || memcmp(room, model + 500, sizeof room) != 0) return NULL;
    return sagemem_reader_close(reader) == SAGEMEM_OK ? ctx : NULL;
}
typedef struct handover {
    sagemem_heap *heap;
    sagemem_reader *reader;
} handover;
static void *take_over(void *ctx) {
    handover *h = ctx;
    if (sagemem_heap_adopt(h->heap) != SAGEMEM_OK) return NULL;
    void *well = adopt_and_read(h->reader);
    sagemem_heap_destroy(h->heap);
    return well;
}
static void reader_is_handed_over_with_its_heap(void **state) {
    (void)state;
    handover h;
    h.heap = sagemem_heap_create(NULL);
    assert_non_null(h.heap);
    sagemem_reader_desc desc = {0};
    desc.path = path;
    desc.no_mapping = desc.read_ahead = true;
    desc.buffer_bytes = 700;
    desc.heap = h.heap;
    h.reader = sagemem_reader_open(&desc);
    assert_non_null(h.reader);
    unsigned char room[500];
    assert_int_equal(sagemem_read(h.reader, room, 500, NULL), SAGEMEM_OK);
    pthread_t thread;
    void *well;
    assert_int_equal(pthread_create(&thread, NULL, take_over, &h), 0);
    pthread_join(thread, &well);
    assert_non_null(well);
}

/* -- All of it ------------------------------------------------------------------------------------------ */

static int begin(void **state) {
    (void)state;
    const char *given = getenv("SAGEMEM_SEED");
    if (given != NULL) seed = strtoull(given, NULL, 0);
    print_message("seed: %llu (SAGEMEM_SEED sets it)\n", (unsigned long long)seed);
    sagemem_set_fault_handler(on_fault, NULL);
    rng random = {seed};
    for (size_t i = 0; i < BYTES; i++) model[i] = (unsigned char)draw(&random);
    snprintf(directory, sizeof directory, "/tmp/sagemem-reader-XXXXXX");
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(path, sizeof path, "%s/input", directory);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(model, 1, bytes(), file) != bytes()) return 1;
    return fclose(file);
}
static int end(void **state) {
    (void)state;
    unlink(path);
    rmdir(directory);
    return 0;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mapped_file),
        cmocka_unit_test(mapped_file_ahead),
        cmocka_unit_test(file_by_path),
        cmocka_unit_test(file_by_path_ahead),
        cmocka_unit_test(file_by_descriptor),
        cmocka_unit_test(file_by_descriptor_ahead),
        cmocka_unit_test(pipes),
        cmocka_unit_test(pipes_ahead),
        cmocka_unit_test(sockets),
        cmocka_unit_test(sockets_ahead),
        cmocka_unit_test(sources),
        cmocka_unit_test(sources_ahead),
        cmocka_unit_test(seekable_sources),
        cmocka_unit_test(seekable_sources_ahead),
        cmocka_unit_test(idle_pipe_closes_at_once),
        cmocka_unit_test(pipe_brings_what_is_there),
        cmocka_unit_test(nonblocking_pipe_is_waited_for),
        cmocka_unit_test(failures_come_in_order),
        cmocka_unit_test(file_that_grows_is_followed),
        cmocka_unit_test(skips_of_files_drop_what_was_read),
        cmocka_unit_test(file_goes_on_after_fork),
        cmocka_unit_test(stream_is_the_parents_after_fork),
        cmocka_unit_test(shared_reader_serves_threads),
        cmocka_unit_test(readers_end_with_thread_heap_and_scope),
        cmocka_unit_test(reader_is_handed_over_with_its_heap),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
