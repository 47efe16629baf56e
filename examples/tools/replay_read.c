/* Reading traces: see replay.h. What the records of a binary one mean is told in sagemem.h, at >>trace. */
#include "replay.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct record {
    uint64_t what, where;
} record;
typedef struct block_header {
    uint32_t magic, records;
    uint64_t sum, clock, ns, trail;
} block_header;
typedef struct file_header {
    char magic[8];
    uint32_t version, byte_order, page_bytes, crc;
    uint64_t zero;
} file_header;

enum { R_ALLOC = 1, R_FREE, R_MOVED, R_LEAVE, R_BECOME, R_HEAP, R_SCOPE, R_END, R_CLEAR, R_LIMIT, R_FAIL, R_PRESSURE };
enum { R_STAMP = 13, R_NAME = 14, R_FINISH = 15, BLOCK_RECORDS = 2042, NAME_BYTES = 64 };
enum { SLOTS = 65536, NO_SLOT = 65535 }; /* what is there while all slots are taken: nobody can tell whose it is */

/* A record to be put in order: those of a thread by their place, those of several by the stamp in front of them. */
typedef struct raw {
    uint64_t stamp, place;
    const record *r;
    uint32_t trail;
} raw;

/* What is known of a thread. */
typedef struct trail {
    uint64_t stamp; /* the last one */
    uint32_t last;  /* the event that allocated last, plus 1 */
    uint32_t left;  /* the block of the last LEAVE, plus 1 */
} trail;

typedef struct name {
    uint64_t key;
    char *text;
} name;

typedef struct reader {
    trace *t;
    const char *path;
    char *bytes;
    size_t size;
    raw *raws;
    size_t raw_count, raw_room;
    name *names;
    size_t name_count, name_room;
    trail *trails; /* by number */
    size_t trail_room;
    uint32_t slots[SLOTS]; /* owner that is there now; 0: the process, or none */
    uint64_t clock, ns;    /* of the latest block */
    bool finished;
    size_t event_room, block_room, owner_room;
    uint32_t *heads, *chain; /* hash of live blocks by key */
    uint64_t *keys;
    size_t head_count;
    uint64_t unmatched;
} reader;

bool fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("sagemem-replay: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return false;
}

/* Bytes of the character there; 0: it is a control character, or no UTF-8 (RFC 3629) */
static size_t character(const unsigned char *at) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000}; /* what fewer bytes can say is not to take more */
    size_t bytes = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
    if (bytes <= 1) return at[0] < 0x20 || at[0] == 0x7F ? 0 : bytes;
    uint32_t code = at[0] & (0x7Fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if (at[i] >> 6 != 2) return 0;
        code = code << 6 | (at[i] & 0x3Fu);
    }
    bool none = (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF || code < 0xA0 || (code & 0xFFFE) == 0xFFFE;
    return code >= least[bytes] && !none ? bytes : 0;
}

char *clean(char *text) {
    for (char *at = text; *at != '\0';) {
        size_t bytes = character((const unsigned char *)at);
        if (bytes == 0) *at = '?';
        at += bytes > 0 ? bytes : 1;
    }
    return text;
}

/* Room for one more element. */
static bool grow(void *array, size_t count, size_t *room, size_t element_size) {
    void *old, *fresh;
    if (count < *room) return true;
    size_t more = *room == 0 ? 1024 : 2 * *room;
    memcpy(&old, array, sizeof old);
    fresh = realloc(old, more * element_size);
    if (fresh == NULL) return fail("there is no memory for %zu records", more);
    memcpy(array, &fresh, sizeof fresh);
    *room = more;
    return true;
}

/* -- The file ---------------------------------------------------------------------------------------------------- */

static bool read_all(reader *in, FILE *file) {
    size_t room = 1 << 20, n;
    in->bytes = (char *)malloc(room + 1);
    while (in->bytes != NULL && (n = fread(in->bytes + in->size, 1, room - in->size, file)) > 0) {
        in->size += n;
        if (in->size < room) continue;
        char *more = (char *)realloc(in->bytes, 2 * room + 1);
        if (more == NULL) return fail("there is no memory for '%s'", in->path);
        in->bytes = more;
        room *= 2;
    }
    if (in->bytes == NULL) return fail("there is no memory for '%s'", in->path);
    in->bytes[in->size] = '\0';
    return !ferror(file) || fail("%s: %s", in->path, strerror(errno));
}

/* What gzip makes of the file: it is there wherever make is, and a library for it may not be. */
static bool read_gzipped(reader *in) {
    int ends[2], status = 0;
    if (pipe(ends) != 0) return fail("%s: %s", in->path, strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execlp("gzip", "gzip", "-dc", "--", in->path, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *file = child > 0 ? fdopen(ends[0], "rb") : NULL;
    bool ok = file != NULL ? read_all(in, file) : fail("%s: gzip cannot be started: %s", in->path, strerror(errno));
    if (file != NULL) fclose(file);
    else close(ends[0]);
    if (child > 0) waitpid(child, &status, 0);
    return ok && (status == 0 || fail("%s: gzip -dc cannot read it", in->path));
}

static bool read_file(reader *in) {
    bool piped = strcmp(in->path, "-") == 0;
    FILE *file = piped ? stdin : fopen(in->path, "rb");
    if (file == NULL) return fail("%s: %s", in->path, strerror(errno));
    bool ok = read_all(in, file);
    if (!piped) fclose(file);
    if (!ok || in->size < 2 || memcmp(in->bytes, "\x1f\x8b", 2) != 0) return ok;
    if (piped) return fail("what comes in is gzipped; put gzip -dc in front of this program");
    free(in->bytes);
    in->bytes = NULL;
    in->size = 0;
    return read_gzipped(in);
}

/* -- Live blocks, by a key --------------------------------------------------------------------------------------- */

static size_t head_of(const reader *in, uint64_t key) {
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & (in->head_count - 1); /* 2^64 / golden ratio: Knuth, TAOCP 3, 6.4 */
}

static uint32_t find_block(const reader *in, uint64_t key) {
    uint32_t b = in->heads[head_of(in, key)];
    while (b != NO_BLOCK && in->keys[b] != key) b = in->chain[b];
    return b;
}

static void forget_block(reader *in, uint32_t b) {
    uint32_t *at = &in->heads[head_of(in, in->keys[b])];
    while (*at != b) at = &in->chain[*at];
    *at = in->chain[b];
}

static bool index_blocks(reader *in, size_t events) {
    if (events > NO_BLOCK / 4)
        return fail("%s: it has %zu events, and %u are as many as can be played", in->path, events, NO_BLOCK / 4);
    for (in->head_count = 1024; in->head_count < events; in->head_count *= 2) continue;
    in->heads = (uint32_t *)malloc(in->head_count * sizeof *in->heads);
    in->chain = (uint32_t *)malloc((events + 1) * sizeof *in->chain);
    in->keys = (uint64_t *)malloc((events + 1) * sizeof *in->keys);
    if (in->heads == NULL || in->chain == NULL || in->keys == NULL) return fail("there is no memory for %zu blocks", events);
    memset(in->heads, 0xFF, in->head_count * sizeof *in->heads);
    return true;
}

/* -- Events ------------------------------------------------------------------------------------------------------ */

static event *add_event(reader *in, trace_kind k, uint32_t owner, uint64_t size, uint32_t tag, uint64_t ns) {
    trace *t = in->t;
    if (!grow(&t->events, t->count, &in->event_room, sizeof *t->events)) return NULL;
    event *e = &t->events[t->count++];
    memset(e, 0, sizeof *e);
    e->kind = (uint8_t)k;
    e->block = e->from = e->first = NO_BLOCK;
    e->owner = owner;
    e->size = size;
    e->tag = (uint16_t)tag;
    e->ns = ns;
    t->kinds[k]++;
    return e;
}

/* `number` is that of the event that does it. */
static void count_come(trace *t, uint32_t tag, uint64_t size) {
    t->used += size;
    t->used_blocks++;
    t->tags[tag].used += size;
    if (t->tags[tag].used > t->tags[tag].peak) t->tags[tag].peak = t->tags[tag].used;
    if (t->used <= t->peak) return;
    t->peak = t->used;
    t->peak_blocks = t->used_blocks;
    t->peak_event = t->count;
}

static bool come(reader *in, event *e, uint64_t key) {
    trace *t = in->t;
    if (e == NULL) return false;
    if (t->used > UINT64_MAX / 2 - e->size) return fail("%s: it has more bytes in use than can be counted", in->path);
    if (!grow(&t->blocks, t->block_count, &in->block_room, sizeof *t->blocks)) return false;
    uint32_t b = t->block_count++;
    trace_block fresh = {e->size, e->owner, t->owners[e->owner].live, NO_BLOCK, e->tag, true};
    t->blocks[b] = fresh;
    if (fresh.next != NO_BLOCK) t->blocks[fresh.next].previous = b;
    t->owners[e->owner].live = b;
    in->keys[b] = key;
    in->chain[b] = in->heads[head_of(in, key)];
    in->heads[head_of(in, key)] = b;
    e->block = b;
    count_come(t, e->tag, e->size);
    return true;
}

static void go(reader *in, uint32_t b) {
    trace *t = in->t;
    trace_block *gone = &t->blocks[b];
    forget_block(in, b);
    if (gone->previous != NO_BLOCK) t->blocks[gone->previous].next = gone->next;
    else t->owners[gone->owner].live = gone->next;
    if (gone->next != NO_BLOCK) t->blocks[gone->next].previous = gone->previous;
    gone->live = false;
    t->used -= gone->size;
    t->used_blocks--;
    t->tags[gone->tag].used -= gone->size;
}

/* All that an owner has left. They stay in their list, for whoever plays the event. */
static void go_all(reader *in, event *e) {
    trace *t = in->t;
    trace_owner *o = &t->owners[e->owner];
    e->first = o->live;
    for (uint32_t b = o->live; b != NO_BLOCK; b = t->blocks[b].next) {
        forget_block(in, b);
        t->blocks[b].live = false;
        t->used -= t->blocks[b].size;
        t->used_blocks--;
        t->tags[t->blocks[b].tag].used -= t->blocks[b].size;
    }
    o->live = NO_BLOCK;
}

static uint32_t add_owner(reader *in, const char *text, uint64_t id, uint32_t outer, bool is_scope) {
    trace *t = in->t;
    if (!grow(&t->owners, t->owner_count, &in->owner_room, sizeof *t->owners)) return NO_BLOCK;
    trace_owner fresh = {strdup(text), id, outer, NO_BLOCK, is_scope, 0, 0, 0, 0};
    if (fresh.name == NULL) return NO_BLOCK;
    t->owners[t->owner_count] = fresh;
    return t->owner_count++;
}

/* It is open, as the latest inside of what encloses it. */
static void open_owner(reader *in, uint32_t o, uint32_t slot) {
    trace_owner *owners = in->t->owners, *it = &owners[o], *outer = &owners[it->outer];
    it->slot = slot;
    it->after = outer->inner;
    if (it->after != 0) owners[it->after].before = o;
    outer->inner = o;
    in->slots[slot] = o;
}

static void shut_owner(reader *in, uint32_t o) {
    trace_owner *owners = in->t->owners, *it = &owners[o];
    if (it->before != 0) owners[it->before].after = it->after;
    else owners[it->outer].inner = it->after;
    if (it->after != 0) owners[it->after].before = it->before;
    in->slots[it->slot] = 0;
}

/* All that is open inside ends first, the innermost before the others: a trace that has lost their ends, or was not written by the
 * library, is played like one that has them. */
static bool end_owner(reader *in, uint32_t o, uint64_t ns) {
    for (uint32_t at = o;; at = in->t->owners[at].outer) {
        while (in->t->owners[at].inner != 0) at = in->t->owners[at].inner;
        event *e = add_event(in, END, at, 0, 0, ns);
        if (e == NULL) return false;
        go_all(in, e);
        shut_owner(in, at);
        if (at == o) return true;
    }
}

/* -- Text -------------------------------------------------------------------------------------------------------- */

typedef struct text_event {
    char kind;
    uint64_t number[3]; /* ID, and what else the kind has */
} text_event;

/* Digits, and nothing else, up to the next space. */
static bool read_number(const char **at, uint64_t *number) {
    const char *digit = *at + strspn(*at, " \t\r");
    if (*digit < '0' || *digit > '9') return false;
    for (*number = 0; *digit >= '0' && *digit <= '9'; digit++) {
        uint64_t last = (uint64_t)(*digit - '0');
        if (*number > (UINT64_MAX - last) / 10) return false;
        *number = 10 * *number + last;
    }
    *at = digit;
    return *digit == '\0' || strchr(" \t\r", *digit) != NULL;
}

static bool read_line(const char *line, text_event *e) {
    line += strspn(line, " \t\r");
    e->kind = *line;
    int numbers = e->kind == 'm' || e->kind == 'c' ? 2 : e->kind == 'r' ? 3 : e->kind == 'f' ? 1 : 0;
    if (numbers == 0 || strchr(" \t", line[1]) == NULL) return false;
    line++;
    for (int i = 0; i < numbers; i++)
        if (!read_number(&line, &e->number[i]) || (i > 0 && e->number[i] >> 48 != 0)) return false;
    return line[strspn(line, " \t\r")] == '\0';
}

static bool wrong_line(const reader *in, const char *line, uint64_t number) {
    char start[61];
    snprintf(start, sizeof start, "%s", line);
    return fail("%s: line %llu is '%s'%s: it should be m ID BYTES, c ID BYTES, r ID OLD NEW or f ID, with BYTES below 2^48",
                in->path, (unsigned long long)number, clean(start), strlen(line) >= sizeof start ? "..." : "");
}

/* Makes each line a string of its own, and looks at all before there is memory for any. */
static bool split_lines(reader *in, uint64_t *lines) {
    char *end, *stop = in->bytes + in->size;
    text_event e;
    *lines = 0;
    for (char *at = in->bytes; at < stop; at = end + 1) {
        end = (char *)memchr(at, '\n', (size_t)(stop - at));
        if (end == NULL) end = stop;
        *end = '\0';
        ++*lines;
        if (strlen(at) != (size_t)(end - at)) return fail("%s: line %llu has a NUL byte", in->path, (unsigned long long)*lines);
        if (!read_line(at, &e)) return wrong_line(in, at, *lines);
    }
    return *lines > 0 || fail("%s: it is empty", in->path);
}

static bool play_line(reader *in, const char *line, uint64_t number) {
    text_event l = {0, {0, 0, 0}};
    (void)read_line(line, &l);
    char k = l.kind;
    unsigned long long id = l.number[0];
    uint32_t b = find_block(in, id);
    if ((b == NO_BLOCK) == (k == 'r' || k == 'f'))
        return fail("%s: line %llu: block %llu %s", in->path, (unsigned long long)number, id,
                    b == NO_BLOCK ? "is not in use" : "is in use already");
    if (k == 'r' && l.number[1] != in->t->blocks[b].size)
        return fail("%s: line %llu: block %llu has %llu bytes, not %llu", in->path, (unsigned long long)number, id,
                    (unsigned long long)in->t->blocks[b].size, (unsigned long long)l.number[1]);
    if (b != NO_BLOCK) go(in, b);
    event *e = add_event(in, k == 'f' ? FREE : k == 'r' ? RESIZE : ALLOC, 0, k == 'r' ? l.number[2] : l.number[1], 0, 0);
    if (e == NULL) return false;
    if (k == 'f') e->block = b;
    if (k == 'r') e->from = b;
    return k == 'f' || come(in, e, id);
}

static bool read_text(reader *in) {
    uint64_t lines;
    const char *at = in->bytes;
    in->t->unit = "line";
    if (!split_lines(in, &lines) || !index_blocks(in, (size_t)lines)) return false;
    for (uint64_t number = 1; number <= lines; number++, at += strlen(at) + 1)
        if (!play_line(in, at, number)) return false;
    return true;
}

/* -- Binary ------------------------------------------------------------------------------------------------------ */

static uint32_t crc32c(const void *data, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    for (const unsigned char *p = (const unsigned char *)data; size > 0; size--, p++) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static uint64_t mix(uint64_t sum, uint64_t word) {
    uint64_t mixed = (sum ^ word) * 0x9E3779B97F4A7C15u;
    return mixed ^ mixed >> 32;
}
static uint64_t sum_of(const block_header *h, const record *at) {
    uint64_t what[2] = {h->clock, h->records}, where[2] = {h->ns, h->trail}; /* of records 0, 2, ... and 1, 3, ... */
    for (uint32_t i = 0; i < h->records; i++) {
        what[i % 2] = mix(what[i % 2], at[i].what);
        where[i % 2] = mix(where[i % 2], at[i].where);
    }
    return mix(mix(what[0], what[1]), mix(where[0], where[1]));
}

static bool check_header(const reader *in) {
    file_header h;
    if (in->size < sizeof h) return fail("%s: it is cut: %zu bytes, and the header has %zu", in->path, in->size, sizeof h);
    memcpy(&h, in->bytes, sizeof h);
    if (h.byte_order == 0x04030201) return fail("%s: it was written by a machine with the other byte order", in->path);
    if (h.byte_order != 0x01020304 || h.zero != 0 || h.crc != crc32c(&h, offsetof(file_header, crc)))
        return fail("%s: byte 0: the header is damaged", in->path);
    if (h.version != 1) return fail("%s: it is of version %u, and this program reads version 1", in->path, h.version);
    return true;
}

static bool add_name(reader *in, const record *r) {
    char text[NAME_BYTES];
    memcpy(text, r + 1, sizeof text);
    text[NAME_BYTES - 1] = '\0';
    char *copy = strdup(clean(text));
    if (copy == NULL) return fail("there is no memory for names");
    uint32_t number = (uint32_t)(r->what >> 4 & 0xFFF);
    if (r->what >> 32 == 1) {
        free(in->t->tags[number].name);
        in->t->tags[number].name = copy;
        return true;
    }
    if (!grow(&in->names, in->name_count, &in->name_room, sizeof *in->names)) return false;
    name fresh = {r->where & (((uint64_t)1 << 44) - 1), copy};
    in->names[in->name_count++] = fresh;
    return true;
}

static bool ready_trail(reader *in, uint64_t trail_number) {
    if (trail_number < in->trail_room) return true;
    size_t room = in->trail_room == 0 ? 64 : in->trail_room;
    while (room <= trail_number) room *= 2;
    trail *fresh = (trail *)calloc(room, sizeof *fresh); /* untouched, a number that is far off takes no memory */
    if (fresh == NULL) return fail("there is no memory for %zu threads", room);
    if (in->trails != NULL) memcpy(fresh, in->trails, in->trail_room * sizeof *fresh);
    free(in->trails);
    in->trails = fresh;
    in->trail_room = room;
    return true;
}

/* The records of a block; names are put aside. */
static bool scan_block(reader *in, const block_header *h, const record *at, size_t byte) {
    for (uint32_t i = 0, n; i < h->records; i += n) {
        unsigned k = (unsigned)(at[i].what & 15);
        n = k == R_NAME ? 5 : k == R_HEAP || k == R_SCOPE ? 2 : 1;
        if (k == 0 || n > h->records - i)
            return fail("%s: byte %zu: a record of kind %u is none", in->path, byte + sizeof *h + i * sizeof *at, k);
        if (k == R_STAMP) in->trails[h->trail].stamp = at[i].where;
        if (k == R_NAME && !add_name(in, &at[i])) return false;
        if (k == R_FINISH) {
            in->finished = true;
            in->t->lost = at[i].where;
        }
        if (k >= R_STAMP) continue;
        if (!grow(&in->raws, in->raw_count, &in->raw_room, sizeof *in->raws)) return false;
        raw fresh = {in->trails[h->trail].stamp, in->raw_count, &at[i], (uint32_t)h->trail};
        in->raws[in->raw_count++] = fresh;
    }
    return true;
}

static bool scan(reader *in) {
    size_t at = sizeof(file_header);
    while (at < in->size) {
        block_header h;
        const record *records = (const record *)(const void *)(in->bytes + at + sizeof h);
        if (in->size - at < sizeof h) break;
        memcpy(&h, in->bytes + at, sizeof h);
        if (h.magic != 0x4B4C4254 || h.records == 0 || h.records > BLOCK_RECORDS || h.trail > 1 << 24)
            return fail("%s: byte %zu: there should be a block of records; it is damaged", in->path, at);
        if ((in->size - at - sizeof h) / sizeof(record) < h.records) break;
        if (h.sum != sum_of(&h, records)) return fail("%s: byte %zu: a block of %u records is damaged", in->path, at, h.records);
        if (!ready_trail(in, h.trail) || !scan_block(in, &h, records, at)) return false;
        if (h.clock > in->clock) {
            in->clock = h.clock;
            in->ns = h.ns;
        }
        at += sizeof h + h.records * sizeof(record);
    }
    if (at == in->size && in->finished) return true;
    return fail("%s: byte %zu: it is cut: the program did not get to sagemem_trace_end, or the disk was full", in->path, at);
}

static int by_time(const void *a, const void *b) {
    const raw *one = (const raw *)a, *two = (const raw *)b;
    if (one->stamp != two->stamp) return one->stamp < two->stamp ? -1 : 1;
    return one->place < two->place ? -1 : one->place > two->place;
}

static const char *name_of(const reader *in, uint64_t key) {
    for (size_t i = in->name_count; i-- > 0;)
        if (in->names[i].key == key) return in->names[i].text;
    return "?";
}

static bool add_free(reader *in, uint32_t b, uint64_t ns) {
    const trace_block *gone = &in->t->blocks[b];
    go(in, b);
    event *e = add_event(in, FREE, gone->owner, gone->size, gone->tag, ns);
    if (e != NULL) e->block = b;
    return e != NULL;
}

/* Both halves of a resize by LEAVE and BECOME are one event, but not when the block has another owner now. Until there the block
 * counts as what it was. */
static bool block_comes(reader *in, const raw *w, unsigned k, uint32_t o, uint64_t size, uint32_t tag, uint64_t ns, uint64_t key) {
    trail *mine = &in->trails[w->trail];
    uint32_t old = k == R_BECOME && mine->left != 0 ? mine->left - 1 : NO_BLOCK;
    if (k == R_BECOME) mine->left = 0;
    if (old != NO_BLOCK && !in->t->blocks[old].live) old = NO_BLOCK;
    bool resized = old != NO_BLOCK && in->t->blocks[old].owner == o;
    if (resized) go(in, old);
    else if (old != NO_BLOCK && !add_free(in, old, ns)) return false;
    uint32_t there = find_block(in, key);
    if (there != NO_BLOCK) { /* its end was lost */
        in->unmatched++;
        if (!add_free(in, there, ns)) return false;
    }
    event *e = add_event(in, resized ? RESIZE : ALLOC, o, size, tag, ns);
    if (e != NULL && resized) e->from = old;
    mine->last = (uint32_t)in->t->count;
    return come(in, e, key);
}

/* The allocation that this thread made last was for what is in that block: a resize, during which there were both. */
static bool block_moved(reader *in, event *e, uint32_t b, uint64_t ns) {
    e->kind = RESIZE;
    e->from = b;
    e->moved = true;
    in->t->kinds[ALLOC]--;
    in->t->kinds[RESIZE]++;
    go(in, b);
    e = add_event(in, MOVED, in->t->blocks[b].owner, in->t->blocks[b].size, in->t->blocks[b].tag, ns);
    if (e != NULL) e->block = b;
    return e != NULL;
}

static bool block_goes(reader *in, const raw *w, unsigned k, uint64_t ns, uint64_t key) {
    trail *mine = &in->trails[w->trail];
    uint32_t b = find_block(in, key);
    event *last = mine->last != 0 ? &in->t->events[mine->last - 1] : NULL;
    if (k == R_LEAVE) mine->left = b == NO_BLOCK ? 0 : b + 1;
    if (b == NO_BLOCK) { /* its beginning was lost, or came before the trace */
        in->unmatched++;
        return true;
    }
    if (k == R_LEAVE) return true;
    bool copied = k == R_MOVED && last != NULL && last->kind == ALLOC && last->owner == in->t->blocks[b].owner && b < last->block;
    return copied ? block_moved(in, last, b, ns) : add_free(in, b, ns);
}

static bool block_event(reader *in, const raw *w, unsigned k, uint32_t slot, uint64_t size, uint32_t tag, uint64_t ns) {
    uint64_t key = (w->r->where & (((uint64_t)1 << 44) - 1)) | (uint64_t)slot << 44;
    if (k == R_ALLOC || k == R_BECOME) return block_comes(in, w, k, in->slots[slot], size, tag, ns, key);
    return block_goes(in, w, k, ns, key);
}

/* A heap or scope. Who was in that slot has ended. */
static bool owner_event(reader *in, const raw *w, unsigned k, uint32_t slot, uint32_t outer_slot, uint64_t ns) {
    if (in->slots[slot] != 0 && !end_owner(in, in->slots[slot], ns)) return false;
    const char *text = name_of(in, w->r->where & (((uint64_t)1 << 44) - 1));
    uint32_t o = add_owner(in, text, w->r[1].what, in->slots[outer_slot], k == R_SCOPE);
    if (o == NO_BLOCK) return fail("there is no memory for heaps and scopes");
    open_owner(in, o, slot);
    return add_event(in, k == R_HEAP ? HEAP : SCOPE, o, 0, 0, ns) != NULL;
}

static bool domain_event(reader *in, const raw *w, unsigned k, uint32_t slot, uint64_t size, uint32_t tag, uint64_t ns) {
    static const trace_kind kinds[] = {CLEAR, LIMIT, FAIL, PRESSURE};
    bool anybody = slot == 0 || slot == NO_SLOT; /* the process has neither beginning nor end */
    if (k == R_HEAP || k == R_SCOPE) return anybody || owner_event(in, w, k, slot, (uint32_t)(size % SLOTS), ns);
    uint32_t o = in->slots[slot];
    if ((k == R_END || k == R_CLEAR) && o == 0) return true; /* its beginning was lost: which blocks it had is not known */
    if (k == R_END) return end_owner(in, o, ns);
    event *e = add_event(in, kinds[k - R_CLEAR], o, size, tag, ns);
    if (e != NULL && k == R_CLEAR) go_all(in, e);
    return e != NULL;
}

/* A stamp may be anything in a trace that the library did not write. */
static uint64_t ns_of(const reader *in, uint64_t stamp) {
    double ns = in->clock > 0 ? (double)stamp * ((double)in->ns / (double)in->clock) : 0;
    return ns < (double)in->ns ? (uint64_t)ns : in->ns;
}

static bool read_binary(reader *in) {
    if (!check_header(in) || !scan(in) || !index_blocks(in, in->raw_count)) return false;
    if (in->raw_count > 0) qsort(in->raws, in->raw_count, sizeof *in->raws, by_time);
    for (size_t i = 0; i < in->raw_count; i++) {
        const raw *w = &in->raws[i];
        unsigned k = (unsigned)(w->r->what & 15);
        uint32_t tag = (uint32_t)(w->r->what >> 4 & 0xFFF), slot = (uint32_t)(w->r->what >> 16 & 0xFFFF);
        uint64_t size = w->r->what >> 32 | (w->r->where >> 44 & 0xFFFF) << 32, ns = ns_of(in, w->stamp);
        bool ok = k <= R_BECOME ? block_event(in, w, k, slot, size, tag, ns) : domain_event(in, w, k, slot, size, tag, ns);
        if (!ok) return false;
    }
    in->t->ns = in->ns;
    if (in->unmatched > 0 && in->t->lost == 0)
        fail("%s: note: %llu events are of blocks whose beginning or end is not in it", in->path,
             (unsigned long long)in->unmatched);
    return true;
}

const char *trace_tag(const trace *t, uint32_t tag) {
    static char text[24];
    if (t->tags[tag].name != NULL) return t->tags[tag].name;
    if (tag == 0) return "untagged";
    snprintf(text, sizeof text, "tag %u", tag);
    return text;
}

/* What each tag had at the peak: the events up to there once more. */
static void find_peak(trace *t) {
    for (uint32_t b = 0; b < t->block_count; b++) t->blocks[b].live = false;
    for (uint64_t i = 0; i < t->peak_event; i++) {
        const event *e = &t->events[i];
        if (e->kind == ALLOC || e->kind == RESIZE) t->blocks[e->block].live = true;
        if (e->kind == RESIZE && !e->moved) t->blocks[e->from].live = false;
        if (e->kind == FREE || e->kind == MOVED) t->blocks[e->block].live = false;
        for (uint32_t b = e->first; b != NO_BLOCK; b = t->blocks[b].next) t->blocks[b].live = false;
    }
    for (uint32_t b = 0; b < t->block_count; b++)
        if (t->blocks[b].live) t->tags[t->blocks[b].tag].at_peak += t->blocks[b].size;
}

/* What is no text is not to be taken for one: a binary trace that is damaged or cut in its header, or anything else. */
static bool read_any(reader *in) {
    static const char magic[] = "sagetrac";
    size_t start = in->size < sizeof(file_header) ? in->size : sizeof(file_header), space = strspn(in->bytes, " \t\r\n");
    if (in->size >= 8 && memcmp(in->bytes, magic, 8) == 0) return read_binary(in);
    bool text = in->size == 0 || in->size >= 8 || memcmp(in->bytes, magic, in->size) != 0;
    for (size_t i = 0; i < start; i++) {
        unsigned char c = (unsigned char)in->bytes[i];
        text = text && (c >= 0x20 || c == '\t' || c == '\r' || c == '\n') && c != 0x7F;
    }
    if (!text) return fail("%s: byte 0: it is neither text nor a whole trace: the header is damaged or cut", in->path);
    if (in->bytes[space] == '{' || in->bytes[space] == '[')
        return fail("%s: this is for ui.perfetto.dev; what can be played is traced with SAGEMEM_TRACE_BINARY", in->path);
    return read_text(in);
}

bool trace_read(trace *t, const char *path) {
    reader *in = (reader *)calloc(1, sizeof *in);
    memset(t, 0, sizeof *t);
    t->unit = "event";
    if (in == NULL) return fail("there is no memory");
    in->t = t;
    in->path = path;
    bool ok = add_owner(in, "process", 0, 0, false) == 0 && read_file(in);
    ok = ok && read_any(in);
    if (ok) find_peak(t);
    for (size_t i = 0; i < in->name_count; i++) free(in->names[i].text);
    free(in->names);
    free(in->raws);
    free(in->trails);
    free(in->heads);
    free(in->chain);
    free(in->keys);
    free(in->bytes);
    free(in);
    if (!ok) trace_release(t);
    return ok;
}

void trace_release(trace *t) {
    for (uint32_t i = 0; i < t->owner_count; i++) free(t->owners[i].name);
    for (uint32_t i = 0; i < TAGS; i++) free(t->tags[i].name);
    free(t->events);
    free(t->blocks);
    free(t->owners);
    memset(t, 0, sizeof *t);
}
