/* A trace as sagemem-replay has it in memory: events in the order in which they happened. */
#ifndef REPLAY_H
#define REPLAY_H

#include "sagemem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAGS = SAGEMEM_TAG_MAX + 1 };
#define NO_BLOCK UINT32_MAX

typedef enum trace_kind { ALLOC, FREE, RESIZE, MOVED, HEAP, SCOPE, CLEAR, END, LIMIT, FAIL, PRESSURE, KINDS } trace_kind;

typedef struct event {
    uint64_t size, ns;
    uint32_t block; /* number: each allocation has its own; MOVED: the `from` of a RESIZE before, gone now */
    uint32_t from;  /* RESIZE: what the block was before */
    uint32_t first; /* CLEAR, END: the first of the blocks that are left, by their `next` */
    uint32_t owner;
    uint16_t tag;
    uint8_t kind;
    bool moved; /* RESIZE: by a copy; until its MOVED there are both blocks */
} event;

typedef struct trace_block {
    uint64_t size;
    uint32_t owner, next, previous; /* in the list of its owner */
    uint16_t tag;
    bool live;
} trace_block;

/* A heap or scope; the first is the process. */
typedef struct trace_owner {
    char *name;
    uint64_t id;    /* of a scope; of a heap its flags */
    uint32_t outer; /* what encloses it */
    uint32_t live;  /* the first block */
    bool is_scope;
    uint32_t inner, before, after; /* while it is open: the latest one that is open inside, and its neighbours there; 0: none */
    uint32_t slot;                 /* of the trace */
} trace_owner;

typedef struct trace_purpose {
    char *name; /* NULL: it has none */
    uint64_t used, peak, at_peak;
} trace_purpose;

typedef struct trace {
    const char *unit; /* what events are counted by: "event", or "line" of a text */
    event *events;
    uint64_t count, kinds[KINDS];
    trace_block *blocks;
    uint32_t block_count;
    trace_owner *owners;
    uint32_t owner_count;
    trace_purpose tags[TAGS];
    uint64_t used, used_blocks, peak, peak_blocks, peak_event;
    uint64_t ns, lost;
} trace;

bool fail(const char *format, ...) SAGEMEM_PRINTF(1, 2); /* says so on stderr; false */

/* Reads and checks a file; "-": what comes in. False: it has been said what is wrong, and where. */
bool trace_read(trace *t, const char *path);
void trace_release(trace *t);
char *clean(char *text);                             /* what a terminal must not be given is '?' after it */
const char *trace_tag(const trace *t, uint32_t tag); /* its name */

bool trace_plot(const trace *t, const char *path);
bool trace_massif(const trace *t, const char *path);

#endif
