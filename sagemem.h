/* sagemem.h 0.1.0: memory for scientific and data-processing C, in one file: every byte has an owner and a purpose.
 *
 * Do this in ONE file of your program, before anything else is included:
 *
 *     #define SAGEMEM_IMPLEMENTATION
 *     #include "sagemem.h"
 *
 * and in any other file only
 *
 *     #include "sagemem.h"
 *
 * The owner is a heap (a scope is a heap that ends); the purpose is a tag. Both are exact at all times, for every
 * block, and survive into the report. The header needs the C library and the system, nothing else. Link with -pthread.
 * Licence: MIT or public domain, as you like; the text is at the end.
 *
 * CONTENTS (each is an anchor: search for `>>name`)
 *
 *     This manual     quick start - terms - vital statistics - algorithms - options - objects - pools - recyclers - arenas -
 *                     arrays and columns - slices - maps - writers - readers - limits and peaks - threads, fork, signals -
 *                     errors - what is caught where - caveats - security - the inside
 *     Declarations    >>config   options, linkage, attributes
 *                     >>log      status codes, last error, logger, fault handler; tags
 *                     >>heap     heaps, sources of pages, blocks, scopes, statistics
 *                     >>budget   limits, reserve, reclaimers, pressure, trim
 *                     >>pool     objects of one size; buffers of many sizes
 *                     >>arena    bump allocation, marks, references
 *                     >>array    geometric growth, arrays that never move, columns
 *                     >>slice    counted views
 *                     >>map      files in memory
 *                     >>io       writer and reader
 *                     >>report   text, one line, JSON; failures on purpose; call sites
 *     Implementation  >>os       pages, locks, threads, clocks, atomics, files; tools that watch
 *                     >>log      messages; the structures of everything below
 *                     >>budget   the tree of limits
 *                     >>pages    the library's own memory, page map, regions, spans
 *                     >>heap     tags, counting, chunks, slab pages, huge blocks, scopes, validation
 *                     >>limits   the public side of >>budget; sources of pages
 *                     >>pool >>arena >>array >>slice >>map >>io
 *                     >>report
 *
 * QUICK START (this compiles as it stands)
 *
 *     #define SAGEMEM_IMPLEMENTATION
 *     #include "sagemem.h"
 *
 *     enum { TAG_TREES = 1, TAG_COOLING };
 *
 *     int main(void) {
 *         sagemem_tag_define(TAG_TREES, "Core/Trees");            // "Group/Name": reports add up each group
 *         sagemem_tag_define(TAG_COOLING, "Physics/Cooling");
 *         double *table = SAGEMEM_NEW_ARRAY(NULL, double, 10000, TAG_COOLING);   // NULL: this thread's own heap
 *         if (table == NULL) {
 *             fprintf(stderr, "%s\n", sagemem_last_error()->message);
 *             return 1;
 *         }
 *         for (uint64_t forest = 0; forest < 1000; forest++) {
 *             sagemem_scope_begin(NULL, "forest", forest);
 *             int *halos = SAGEMEM_NEW_ARRAY(NULL, int, 500 + forest, TAG_TREES);
 *             if (halos != NULL) halos[0] = 1;                    // ... the work on this forest ...
 *             sagemem_scope_end(NULL);                            // all that was allocated since begin is gone
 *         }
 *         sagemem_free(table);
 *         return sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, "-") == SAGEMEM_OK ? 0 : 1;
 *     }
 *
 * TERMS
 *
 *     heap      owns pages; belongs to the thread that made it. NULL is the calling thread's default heap.
 *     scope     what is allocated between sagemem_scope_begin and _end of one heap; gone at the end. Scopes nest.
 *     tag       a number from 0 to 4095 with a name: what a block is for.
 *     used      bytes of blocks handed out, each at its usable size (sagemem_size): at least what was asked for.
 *     held      bytes of pages taken from the system: what limits limit. Includes what is kept for later.
 *     resident  what the system says is in memory now; only reported.
 *     page      a run of 16 KiB units: a slab page (blocks of one size and one tag), a chunk (blocks of any size and
 *               tag, each behind one word of 8 bytes), or the pages of one huge block.
 *
 * VITAL STATISTICS (64-bit; `make vital` prints them for the machine at hand)
 *
 *     alignment of every block                       16 bytes; 64 from 64 KiB on; on request up to 1 GiB
 *     bytes added to a block                         none in a slab page, 8 in a chunk, 72 and more in a checked heap
 *     size classes of slab pages                     160: multiples of 16 up to 1 KiB, then 3 % apart, up to 8 KiB
 *     blocks above 256 KiB                           pages of their own; above 16 MiB their own mapping, grown by mremap
 *     held by a heap with one small block            16 KiB; with one block in each of 100 tags 16 KiB
 *     5,000 blocks of 16 to 1024 bytes in 8 tags     held is 1.09 of used
 *     structure of a heap                            8 KiB; of a page 200 bytes; of 16 tags 2 KiB in each heap and scope
 *     the page map                                   8 bytes for 16 KiB of pages in use (0.05 %), not counted as held
 *     largest block                                  half of the address space
 *     tags 4095, names of 63 bytes, heaps and scopes without limit
 *     a freed block is found by                      two loads and a comparison, for any pointer at all
 *     time                                           of allocation and free: constant, but when a page changes hands;
 *                                                    of scope end and heap destruction: pages and tags, not blocks;
 *                                                    of statistics: pages and tags
 *     what an idle heap may keep                     1 MiB of empty slab pages, one more for each (tag, size class) in
 *                                                    use, 1 MiB of chunks for its next scope: until sagemem_trim
 *     what the process may keep                      free pages of its regions, for purge_delay_ms of the heap that
 *                                                    freed them [1 s] and until a page is next taken or freed
 *
 *     When memory runs out the call returns NULL or a status, nothing is changed, and it can be repeated.
 *
 * ALGORITHMS, AND WHERE THEY ARE WEAK
 *
 *     A long-lived heap serves small blocks from slab pages: one size class of one tag, no header, and counters that
 *     lie beside the page's free list, so that exact accounting costs no line that the call does not touch anyway. A
 *     (tag, class) gets slab pages only once it has two pages' worth of blocks or is allocated often; till then its
 *     blocks share chunks, so that a hundred tags cost no hundred pages. In chunks free neighbours are merged and the best
 *     fit is taken. A scope bumps through chunks; blocks freed in it wait for another of exactly their size.
 *     Weak: a heap that alternates between very many (tag, class) pairs holds a page that is partly empty for each;
 *     long-lived blocks of many sizes above 8 KiB fragment as in any best-fit allocator; a scope in which sizes never
 *     recur does not reuse what is freed before its end; SAGEMEM_HEAP_SHARED and _SYSTEM take a lock at each call.
 *
 * OPTIONS (defines, before the include)
 *
 *     name                    default  where                        effect
 *     SAGEMEM_IMPLEMENTATION  -        in one file                  compiles the implementation there
 *     SAGEMEM_STATIC          -        that file                    every function is static: two libraries can each embed
 *                                                                   a copy; needs the implementation in the same file
 *     SAGEMEM_API             extern   wherever it is included      linkage of every function, e.g. a dllexport
 *     SAGEMEM_SITES           -        any file, each for itself    the five short calls pass on file and line
 *     SAGEMEM_DEFAULTS        1        that of the implementation   default of every SAGEMEM_WITH_*: 0 to name just what you take
 *     SAGEMEM_WITH_POOL       1        that of the implementation   the functions of >>pool
 *     SAGEMEM_WITH_ARENA      1        that of the implementation   the functions of >>arena
 *     SAGEMEM_WITH_ARRAY      1        that of the implementation   the functions of >>array
 *     SAGEMEM_WITH_SLICE      1        that of the implementation   the functions of >>slice
 *     SAGEMEM_WITH_MAP        1        that of the implementation   the functions of >>map
 *     SAGEMEM_WITH_IO         1        that of the implementation   the functions of >>io; needs SAGEMEM_WITH_MAP
 *     SAGEMEM_WITH_REPORT     1        that of the implementation   the functions sagemem_report, _report_file, _report_at_exit
 *
 *     No option changes a structure, a signature or an enumerator. A function that was left out is a link error that
 *     names it. Mixed versions in one program do not link (sagemem_version_0_1). Whatever only tunes is a field of a
 *     _desc. C11 or C++11 for the implementation, C99 or C++11 for the declarations; gcc or clang. With a strict -std=c11
 *     include this header before system headers, or an #error says so.
 *
 * OBJECTS
 *
 *     Pools, recyclers, arenas, columns, maps, writers and readers are objects made from a heap; arrays and slices are
 *     structs that you declare and that name a block of it. All follow the same rules:
 *     - _create and _open take a _desc whose zeroes are defaults; _get_desc tells what became of them. What a desc points to
 *       is copied.
 *     - An object belongs to the scope that is open in its heap when it is made, or to the heap. All it ever takes comes from
 *       there, under the tag of its desc, whatever scope is open when it grows; so it shows in the report and under limits.
 *     - It ends when it is destroyed or closed, or with its scope or heap: last made first, clean-ups of sagemem_scope_defer
 *       among them. An object made outside of a scope may be used and destroyed inside, not the other way round.
 *     - One that is used after its end, by another thread than its heap's, or is none at all goes to the fault handler
 *       (E_STALE, E_BUSY, E_FOREIGN). In a SAGEMEM_HEAP_SHARED heap any thread may use it, one at a time.
 *     - A failure changes nothing, and the call can be repeated. sagemem_heap_check looks into objects, too.
 *
 * POOLS
 *
 *     (to be written: pools)
 *
 * RECYCLERS
 *
 *     (to be written: recyclers)
 *
 * ARENAS
 *
 *     (to be written: >>arena)
 *
 * ARRAYS AND COLUMNS
 *
 *     (to be written: >>array)
 *
 * SLICES
 *
 *     (to be written: >>slice)
 *
 * MAPS
 *
 *     (to be written: >>map)
 *
 * WRITERS
 *
 *     (to be written: writers)
 *
 * READERS
 *
 *     (to be written: readers)
 *
 * LIMITS AND PEAKS
 *
 *     Limits form a tree, scope - heap - parent heap - process, and count bytes held. A page is taken when every level
 *     has room for it, in one step: held <= limit holds at every moment. A limit that is met: the heap gives back what it
 *     keeps, the process-wide cache is purged, the reclaimers run (lowest priority number first, in the thread that met
 *     the limit, without locks), each time followed by another attempt; then E_LIMIT. sagemem_reserve claims bytes in
 *     advance. The library's own structures are held by the process, not by any heap.
 *
 *     Present counts are exact whenever nobody is allocating or freeing. The sum over tags is the heap's total, the
 *     sum over heaps is the process's. The composition of a peak adds up to the peak.
 *     Peaks of scopes and of SAGEMEM_HEAP_CHECKED, _SITES and _SYSTEM heaps are exact. Those of ordinary heaps, of heaps with
 *     children and of the process are looked at when pages change hands or a slab page is exhausted, once in (pages / 32)
 *     such events, when 1/32 of what is held and 16 KiB more has been allocated, when a scope ends or the heap around it
 *     grows, and whenever statistics are read. So an ordinary heap's peak is at most the true one and short of it by at
 *     most held_peak / 32, plus one page (16 to 64 KiB) for each (tag, size class) with slab pages, plus one chunk. A
 *     parent's or the process's is the sum of what its heaps last showed: it may be off by the sum of their bounds.
 *
 * THREADS, FORK, SIGNALS
 *
 *     Heaps and scopes belong to one thread at a time. Any thread may free a block, look at one, and read statistics. A
 *     block that another thread frees leaves the statistics at once and becomes room again when the owner next takes the
 *     long way. sagemem_heap_adopt hands a heap over. SAGEMEM_HEAP_SHARED heaps may be used by all threads, one at a time.
 *     When a thread ends, the clean-ups of its open scopes run, its blocks stay valid, and the next thread that
 *     needs a default heap takes its default heap over; other heaps of it may be adopted or destroyed by anyone.
 *     After fork the child has the heaps of the thread that forked. Those of other threads may have stopped halfway
 *     through a change: their blocks stay valid and may be freed, but nobody takes those heaps over, and their counts
 *     may be off by the one call that was under way. So it is with heaps in a sagemem_source_file: the file is the
 *     parent's. No function may be called from a signal handler.
 *
 * ERRORS
 *
 *     What can fail returns a status or NULL; sagemem_last_error(), one for each thread, says what, where and the remedy.
 *     Misuse and corruption go to the fault handler: by default a message on stderr and abort(). A handler that
 *     returns makes the call fail with the error's status; a damaged block is leaked.
 *     Statuses of misuse: E_FOREIGN foreign or interior pointer, E_STALE freed block or ended heap or scope, E_BUSY
 *     another thread's heap, E_CORRUPT damage, E_ARGUMENT a scope that was not begun.
 *     On the failure path nothing is allocated. sagemem_check_failures makes every allocation and system call fail
 *     in turn: it is how the tests know, and it works for your code too.
 *
 * WHAT IS CAUGHT WHERE
 *
 *     "at once": by the call that does it. Slab, chunk, huge: blocks of ordinary heaps (`tests/caught` has a program for
 *     each; a scope's blocks lie in chunks or are huge). Checked: SAGEMEM_HEAP_CHECKED, with file and line if SAGEMEM_SITES.
 *
 *     violation                          slab                 chunk                 huge             checked
 *     freed twice, also by two threads   at once, or (1)      at once               at once          at once
 *     free, realloc of a pointer into    at once              at once (2)           at once          at once (2)
 *       a block, or misaligned
 *     ... of stack, static, malloc'ed,   at once              at once               at once          at once
 *       unmapped, NULL + 8 memory
 *     ... after its scope ended          -                    at once (2)           at once          at once (2)
 *     ... after its heap ended           at once (3)          at once (3)           at once (3)      at once (3)
 *     written 1 byte past the end        no                   (4) if it meets the   no               (5)
 *                                                             next block's word
 *     written 8 or more bytes past it    (6) into a free      (4)                   no               (5)
 *                                        block; else no
 *     written in front of it             as 8 past the one    (4)                   no, or SIGSEGV   (5)
 *                                        in front
 *     written after free                 (6) first 16 bytes   (7) first 24 bytes    SIGSEGV, or no   (8) any byte
 *     another thread's heap used         at once              at once               at once          at once
 *     an ended heap used                 at once, until 64 more heaps have ended
 *     scope ended twice or not begun,    at once
 *       heap ended with child heaps,
 *       source destroyed while in use
 *
 *     (1) two frees at the same moment on different threads: when the owner next takes that page
 *     (2) a 24-bit hash decides: one wild pointer in 16 million that points behind the right bits would pass
 *     (3) until its pages serve again; then as a pointer into whatever lies there now
 *     (4) when the damaged word's block is freed, resized or checked
 *     (5) when it is freed, resized or checked, at the end of its scope or heap, and in sagemem_heap_check
 *     (6) when that block is next allocated, and in sagemem_heap_check
 *     (7) when the block is reused or merged, and in sagemem_heap_check; a 16-bit hash decides
 *     (8) when it leaves the quarantine (1 MiB of later frees), at the end of its scope or heap, in sagemem_heap_check
 *         (blocks up to 256 KiB: a huge one gives its pages back at once)
 *
 * CAVEATS (symptom: what it is, what to do)
 *
 *     The compiler warns about writing past the size asked for, or _FORTIFY_SOURCE aborts, although sagemem_size allows
 *       it: compilers see the size in the call; resize with sagemem_realloc before using more.
 *     A crash in a source's map_fn, or a deadlock: it is called with a lock held and must not call sagemem.
 *     A deadlock while a report is written: a sink's write_fn must not call sagemem.
 *     Memory does not fall after everything was freed: it is kept for later (see VITAL STATISTICS); sagemem_trim(), or
 *       purge_delay_ms = SAGEMEM_PURGE_NOW in the heap's desc.
 *     A limit is met although less is used: limits count pages. Many small limits of a few pages waste: limit a parent.
 *     `ulimit -v`, small containers, Valgrind: address space is taken 256 MiB at a time, or less where that is refused.
 *     vfork, or clone without pthread_atfork: the child must only exec.
 *     A page of the system larger than 16 KiB (some arm64 and POWER): works; purging then returns less.
 *     Under Valgrind and AddressSanitizer the long way is taken for each block, so that they see them all.
 *
 * SECURITY
 *
 *     Free lists and headers carry keyed hashes and are checked before use; that finds accidents, and makes attacks on
 *     the heap harder, but the key comes from clocks and addresses: it is no defence against an attacker who can read
 *     memory. Bounds are what sagemem_heap_check and the table above say, no more. Nothing is read from the environment;
 *     beside the files that the program names, only /proc/self, /proc/meminfo and the cgroup limits are read.
 *
 * THE INSIDE
 *
 *     A section calls only sections above it; >>report reads counters and is called by nobody. A new operating system
 *     goes into >>os. A new layer goes between >>limits and >>report, with declarations in the same order, and acts on
 *     lower layers through what they offer at run time (clean-ups, reclaimers), never by an #if inside a function.
 *     Locks and their order: search for smi_registry_lock. Every relaxed counter has one writer; see SMI_LOAD.
 */
#ifndef SAGEMEM_H
#define SAGEMEM_H

/* The implementation asks for more than strict C has; only where the program asked for no more itself. */
#if defined(SAGEMEM_IMPLEMENTATION) && defined(__STRICT_ANSI__) && !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE) &&           \
    !defined(_WIN32)
#define _DEFAULT_SOURCE
#define SMI_UNDEF_SOURCE
#endif
#if defined(SAGEMEM_IMPLEMENTATION) && defined(__MINGW32__) && !defined(__USE_MINGW_ANSI_STDIO)
#define __USE_MINGW_ANSI_STDIO 1 /* %zu and %llu as C99 has them */
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAGEMEM_VERSION_MAJOR 0
#define SAGEMEM_VERSION_MINOR 1
#define SAGEMEM_VERSION_PATCH 0
#define SAGEMEM_VERSION "0.1.0"

/* ==========================================================================
 * >>config  Options, their defaults, and what cannot work.
 * ========================================================================== */

#ifndef SAGEMEM_DEFAULTS
#define SAGEMEM_DEFAULTS 1
#endif
#if SAGEMEM_DEFAULTS != 0 && SAGEMEM_DEFAULTS != 1
#error "sagemem: SAGEMEM_DEFAULTS must be 0 or 1"
#undef SAGEMEM_DEFAULTS
#define SAGEMEM_DEFAULTS 1
#endif
#ifndef SAGEMEM_WITH_POOL
#define SAGEMEM_WITH_POOL SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_POOL != 0 && SAGEMEM_WITH_POOL != 1
#error "sagemem: SAGEMEM_WITH_POOL must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_ARENA
#define SAGEMEM_WITH_ARENA SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_ARENA != 0 && SAGEMEM_WITH_ARENA != 1
#error "sagemem: SAGEMEM_WITH_ARENA must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_ARRAY
#define SAGEMEM_WITH_ARRAY SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_ARRAY != 0 && SAGEMEM_WITH_ARRAY != 1
#error "sagemem: SAGEMEM_WITH_ARRAY must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_SLICE
#define SAGEMEM_WITH_SLICE SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_SLICE != 0 && SAGEMEM_WITH_SLICE != 1
#error "sagemem: SAGEMEM_WITH_SLICE must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_MAP
#define SAGEMEM_WITH_MAP SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_MAP != 0 && SAGEMEM_WITH_MAP != 1
#error "sagemem: SAGEMEM_WITH_MAP must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_IO
#define SAGEMEM_WITH_IO SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_IO != 0 && SAGEMEM_WITH_IO != 1
#error "sagemem: SAGEMEM_WITH_IO must be 0 or 1"
#endif
#ifndef SAGEMEM_WITH_REPORT
#define SAGEMEM_WITH_REPORT SAGEMEM_DEFAULTS
#endif
#if SAGEMEM_WITH_REPORT != 0 && SAGEMEM_WITH_REPORT != 1
#error "sagemem: SAGEMEM_WITH_REPORT must be 0 or 1"
#endif
#if SAGEMEM_WITH_IO == 1 && SAGEMEM_WITH_MAP == 0
#error "sagemem: SAGEMEM_WITH_IO needs SAGEMEM_WITH_MAP 1 (readers map files)"
#endif

#if !defined(__GNUC__) && !defined(__clang__)
#error "sagemem: this compiler is not supported yet; use gcc or clang (on Windows: MinGW-w64 or clang)"
#endif
#if defined(SAGEMEM_STATIC) && defined(SAGEMEM_API)
#error "sagemem: define SAGEMEM_STATIC or SAGEMEM_API, not both"
#endif
#if defined(SAGEMEM_STATIC) && !defined(SAGEMEM_IMPLEMENTATION)
#error "sagemem: SAGEMEM_STATIC needs SAGEMEM_IMPLEMENTATION in the same file"
#endif

/* Linkage of every public function. SAGEMEM_STATIC makes them private to the file that
 * includes the header, so that two libraries can each embed a copy of their own. */
#ifndef SAGEMEM_API
#ifdef SAGEMEM_STATIC
#define SAGEMEM_API static __attribute__((__unused__))
#else
#define SAGEMEM_API extern
#endif
#endif

/* Attributes, all in one place. SIZE1/SIZE2: which argument gives the size of the result. */
#define SAGEMEM_UNUSED __attribute__((__unused__))
#define SAGEMEM_NODISCARD __attribute__((__warn_unused_result__))
#define SAGEMEM_MALLOC_SIZE1(n) __attribute__((__malloc__, __warn_unused_result__, __alloc_size__(n)))
#define SAGEMEM_MALLOC_SIZE2(n, m) __attribute__((__malloc__, __warn_unused_result__, __alloc_size__(n, m)))
#if defined(__MINGW32__) && !defined(__clang__)
#define SAGEMEM_PRINTF(text, first) __attribute__((__format__(__gnu_printf__, text, first)))
#else
#define SAGEMEM_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ==========================================================================
 * >>log  Status codes, the last error, the logger, the fault handler.
 * ========================================================================== */

/* What a call came to. 0 is success; the order is fixed, new codes are added at the end. */
typedef enum sagemem_status {
    SAGEMEM_OK = 0,
    SAGEMEM_E_ARGUMENT,    /* an argument cannot be used: NULL, bad alignment, a size that overflows */
    SAGEMEM_E_NOMEM,       /* the system has no more memory or addresses */
    SAGEMEM_E_LIMIT,       /* a limit set by the program would be exceeded */
    SAGEMEM_E_IO,          /* a system call on a file failed; os_error says how */
    SAGEMEM_E_FULL,        /* a container is at its maximum */
    SAGEMEM_E_EMPTY,       /* a container holds nothing */
    SAGEMEM_E_TIMEOUT,     /* waited as long as was asked */
    SAGEMEM_E_STALE,       /* a freed block, an ended scope or heap */
    SAGEMEM_E_CORRUPT,     /* a guard or checksum does not match */
    SAGEMEM_E_FOREIGN,     /* a pointer that is not the start of a block */
    SAGEMEM_E_BUSY,        /* belongs to another thread, or is in use */
    SAGEMEM_E_CLOSED,      /* used after close */
    SAGEMEM_E_UNSUPPORTED, /* not possible on this system or in this build */
    SAGEMEM_E_NOT_FOUND,   /* no such name or key */
    SAGEMEM_E_TOO_BIG      /* larger than a documented maximum */
} sagemem_status;

/* The enumerator's own name, "SAGEMEM_E_NOMEM"; "SAGEMEM_E_UNKNOWN" for any other number. Threads: any. */
SAGEMEM_API const char *sagemem_status_name(sagemem_status status);

/* One failure. `call` is a static string; `message` says what, where and the remedy. */
typedef struct sagemem_error {
    sagemem_status status;
    int os_error; /* errno, or GetLastError on Windows; 0 when no system call was involved */
    const char *call;
    char message[240];
} sagemem_error;

/* The calling thread's most recent failure; never NULL. A call that succeeds leaves it as it is.
 * The pointer stays the same for the life of the thread. */
SAGEMEM_API const sagemem_error *sagemem_last_error(void);

typedef enum sagemem_log_level { SAGEMEM_LOG_DEBUG, SAGEMEM_LOG_INFO, SAGEMEM_LOG_WARNING, SAGEMEM_LOG_ERROR } sagemem_log_level;

/* Sends the library's messages to log_fn (NULL: warnings and errors to stderr again). The message has no
 * newline and is valid during the call. log_fn may be called from any thread, and with locks of the library
 * held: it must not call back into sagemem. Threads: any; set it before other threads start. */
SAGEMEM_API void sagemem_set_logger(void (*log_fn)(void *ctx, sagemem_log_level level, const char *message), void *ctx);

/* MISUSE: the program broke a rule (double free, foreign pointer, wrong thread).
 * CORRUPTION: a block was damaged (overflow, underflow, write after free). */
typedef enum sagemem_fault_kind { SAGEMEM_MISUSE, SAGEMEM_CORRUPTION } sagemem_fault_kind;

/* Called when misuse or corruption is found. If fault_fn returns, the call that found it fails with
 * error->status and changes nothing; a damaged block is leaked. It may longjmp away only from calls on heaps
 * that are not SAGEMEM_HEAP_SHARED. NULL restores the default: the message on stderr, then abort(). */
SAGEMEM_API void sagemem_set_fault_handler(void (*fault_fn)(void *ctx, sagemem_fault_kind kind, const sagemem_error *error),
                                           void *ctx);

/* Where bytes go: write_fn takes all of `size` bytes for position `offset`, or says why not and has taken none (it may see them
 * again). close_fn, which may be NULL, is called once at the end by what was opened for this sink. */
typedef struct sagemem_sink {
    sagemem_status (*write_fn)(void *ctx, const void *data, size_t size, uint64_t offset);
    sagemem_status (*close_fn)(void *ctx);
    void *ctx;
} sagemem_sink;

/* ==========================================================================
 * Tags: what a byte is for. A small number with a name, one table per process. Threads: any.
 * "Physics/Cooling": the part before the slash is the group in reports.
 * ========================================================================== */

typedef uint16_t sagemem_tag;

enum {
    SAGEMEM_UNTAGGED = 0,       /* no purpose given: reports list it so that it gets one */
    SAGEMEM_TAG_USER_MAX = 127, /* 1 ... 127 are for the program's own enum */
    SAGEMEM_TAG_MAX = 4095,     /* tags made by name take 128 ... 4095 */
    SAGEMEM_TAG_SAME = 0xFFFF   /* sagemem_realloc: keep the block's tag */
};

/* The tag of that name, made on first use; the same name always gives the same tag. The name is copied
 * (at most 63 bytes count). NULL or "", or a full table: SAGEMEM_UNTAGGED, with the reason in
 * sagemem_last_error() (a full table is also logged, once). Cost: one hash look-up under a lock; keep the
 * result in a variable where it is used often. */
SAGEMEM_API sagemem_tag sagemem_tag_named(const char *name);

/* Gives an enum tag (1 ... SAGEMEM_TAG_USER_MAX) its name. E_ARGUMENT: number out of range, no name.
 * E_BUSY: the tag has another name or the name another tag; nothing is changed. Repeating a definition is OK. */
SAGEMEM_API sagemem_status sagemem_tag_define(sagemem_tag tag, const char *name);

/* The tag's name, for ever valid; "tag N" for a number nobody named, "untagged" for 0. */
SAGEMEM_API const char *sagemem_tag_name(sagemem_tag tag);

/* ==========================================================================
 * >>heap  Heaps and scopes: who a byte belongs to.
 *
 * A heap belongs to the thread that made it: only that thread allocates from it, opens scopes in it and asks
 * for changes to it; any thread may free its blocks and read its statistics. Heap NULL is the calling
 * thread's default heap, made on first use.
 * ========================================================================== */

typedef struct sagemem_heap sagemem_heap;

/* Where a heap's pages come from. All functions may be called from any thread. */
typedef struct sagemem_source {
    void *(*map_fn)(void *ctx, size_t size,
                    size_t alignment);                     /* zeroed pages at a multiple of alignment (a power of two), or NULL */
    void (*unmap_fn)(void *ctx, void *pages, size_t size); /* what map_fn gave, whole */
    void (*purge_fn)(void *ctx, void *pages, size_t size); /* the contents may go, the range stays; may be NULL */
    size_t page_size;                                      /* sizes are rounded up to this; a power of two [the system's] */
    void *ctx;
} sagemem_source;

typedef enum sagemem_numa_policy {
    SAGEMEM_NUMA_PREFERRED, /* that node first, others when it is full */
    SAGEMEM_NUMA_BIND,      /* that node or nothing */
    SAGEMEM_NUMA_INTERLEAVE /* page by page over all nodes; the node number is ignored */
} sagemem_numa_policy;

/* Sources by value hold nothing and are not destroyed. Where huge pages or NUMA are not to be had, the pages
 * are ordinary ones; `huge_page_bytes` in the statistics says what was really obtained. */
SAGEMEM_API sagemem_source sagemem_source_system(void);
SAGEMEM_API sagemem_source sagemem_source_huge(size_t page_size); /* bytes: 2 MiB or 1 GiB on x86-64; 0: the system's default */
SAGEMEM_API sagemem_source sagemem_source_numa(int node, sagemem_numa_policy policy);

/* Sources that are made and destroyed; their heaps must be destroyed first (else E_BUSY to the fault handler,
 * and nothing is destroyed). NULL on failure.
 * buffer: the caller's memory, at least 64 KiB of it, used from the first to the last multiple of 16 KiB; it must
 *   stay valid and is not freed. Its content is taken to be undefined.
 * file: a file made (or emptied) at `path`, which holds at most `limit` bytes and is sparse until used; it
 *   is unlinked from its directory at destroy. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_source *sagemem_source_buffer(void *memory, size_t size);
SAGEMEM_API SAGEMEM_NODISCARD sagemem_source *sagemem_source_file(const char *path, uint64_t limit);
SAGEMEM_API void sagemem_source_destroy(sagemem_source *source); /* NULL is fine */

/* Heap flags. */
enum {
    SAGEMEM_HEAP_ZERO = 1,           /* every block comes zeroed, and so does every grown tail */
    SAGEMEM_HEAP_ABORT_ON_NOMEM = 2, /* a failed allocation logs the size and aborts instead of returning NULL */
    SAGEMEM_HEAP_CHECKED = 4,        /* red zones, fill patterns, quarantine; exact sizes; see the manual's table */
    SAGEMEM_HEAP_SITES = 8,          /* remembers file and line of each allocation made through SAGEMEM_SITES */
    SAGEMEM_HEAP_SYSTEM = 16,        /* every block straight from malloc: to bisect a problem */
    SAGEMEM_HEAP_SHARED = 32         /* any thread may allocate, under a lock */
};

enum { SAGEMEM_PURGE_NEVER = -1, SAGEMEM_PURGE_NOW = -2 }; /* for purge_delay_ms, converted to uint32_t */

/* Zero in every field is its default, in brackets. */
typedef struct sagemem_heap_desc {
    const char *name;     /* in reports ["heap"]; copied */
    sagemem_heap *parent; /* budget and report parent; may belong to another thread and must outlive the heap [the process] */
    uint64_t limit;       /* bytes held [no limit of its own] */
    const sagemem_source *source; /* where pages come from [the system]; the struct is copied, what ctx points to is not */
    uint32_t flags;               /* SAGEMEM_HEAP_* */
    uint32_t purge_delay_ms;      /* unused pages go back to the system after this [1000]; SAGEMEM_PURGE_NEVER, SAGEMEM_PURGE_NOW */
} sagemem_heap_desc;

/* Makes a heap owned by the calling thread; NULL desc: all defaults. NULL on failure (E_ARGUMENT: unknown
 * flag; E_STALE: parent ended; E_NOMEM, E_LIMIT). Cost: about a microsecond; no page until the first block. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_heap *sagemem_heap_create(const sagemem_heap_desc *desc);

/* The calling thread's default heap. NULL only when it cannot be made. */
SAGEMEM_API sagemem_heap *sagemem_heap_default(void);

/* The desc of default heaps that are made from now on: checked mode without touching a call. NULL: back to all
 * defaults. Threads: any. */
SAGEMEM_API sagemem_status sagemem_heap_default_configure(const sagemem_heap_desc *desc);

/* The heap's desc with every default resolved. `name` and `source` are valid while the heap lives. */
SAGEMEM_API sagemem_status sagemem_heap_get_desc(const sagemem_heap *heap, sagemem_heap_desc *out);

/* Frees everything in the heap and the heap. Open scopes end first, innermost first, their clean-ups run.
 * Threads: owner; any thread when the owner has ended. Misuse: live child heaps (E_BUSY), NULL. Cost: pages. */
SAGEMEM_API void sagemem_heap_destroy(sagemem_heap *heap);

/* Frees everything in the heap, ends its scopes, keeps the heap, its name, limit and totals. Misuse: NULL. */
SAGEMEM_API void sagemem_heap_reset(sagemem_heap *heap);

/* Makes the calling thread the owner. The former owner must be done with the heap (handing over a pointer
 * through a lock or a queue is enough). E_BUSY: it is another thread's default heap and that thread lives.
 * Cost: pages. */
SAGEMEM_API sagemem_status sagemem_heap_adopt(sagemem_heap *heap);

/* -- Blocks ---------------------------------------------------------------------------------------------
 * Every block is aligned to 16, from 64 KiB on to 64. Failure is NULL with E_NOMEM, E_LIMIT, E_ARGUMENT (a
 * size that overflows, a tag above SAGEMEM_TAG_MAX) or, for the wrong thread, the fault handler and E_BUSY;
 * nothing is changed and the call can be repeated. Size 0 is a small block of its own. Threads: the heap's
 * owner (any, for SAGEMEM_HEAP_SHARED). Cost: a few nanoseconds; a page is taken now and then. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_alloc(sagemem_heap *heap, size_t size, sagemem_tag tag);
SAGEMEM_API SAGEMEM_MALLOC_SIZE2(2, 3) void *sagemem_calloc(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag);
/* alignment: a power of two up to 1 GiB. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(3) void *sagemem_aligned_alloc(sagemem_heap *heap, size_t alignment, size_t size, sagemem_tag tag);
/* Changes a block's size; what it held stays, up to the smaller of both sizes. block NULL: sagemem_alloc(heap,
 * size, tag). Otherwise the block stays in its own heap and scope, and `heap` is not looked at.
 * tag: SAGEMEM_TAG_SAME keeps its tag; another one gives the block that tag. NULL: the block is as before.
 * Size 0 gives a small block, never a free. An alignment asked for before is kept only in place. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_realloc(sagemem_heap *heap, void *block, size_t size, sagemem_tag tag);
/* Like sagemem_calloc, contents undefined. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE2(2, 3) void *sagemem_alloc_array(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag);
/* Copies of `size` bytes of data (may be NULL when size is 0), and of a string. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(3) void *sagemem_memdup(sagemem_heap *heap, const void *data, size_t size, sagemem_tag tag);
SAGEMEM_API SAGEMEM_NODISCARD char *sagemem_strdup(sagemem_heap *heap, const char *text, sagemem_tag tag);

/* Typed and zeroed, also in C++: struct halo *h = SAGEMEM_NEW_ARRAY(NULL, struct halo, n, TAG_HALOS); */
#define SAGEMEM_NEW(heap, type, tag) ((type *)sagemem_calloc((heap), 1, sizeof(type), (tag)))
#define SAGEMEM_NEW_ARRAY(heap, type, count, tag) ((type *)sagemem_calloc((heap), (count), sizeof(type), (tag)))

/* Gives a block back. Any thread; NULL is fine; anything that is not a live block goes to the fault handler.
 * Cost: a few nanoseconds on the owner's thread, two atomic operations elsewhere. */
SAGEMEM_API void sagemem_free(void *block);

/* The heap as three functions, for libraries that take an allocator (zlib, SQLite, cJSON). `ctx` is valid
 * while the heap lives. heap NULL: the default heap of whichever thread calls. All functions are NULL when it cannot be made. */
typedef struct sagemem_allocator {
    void *(*alloc_fn)(void *ctx, size_t size);
    void *(*realloc_fn)(void *ctx, void *block, size_t size);
    void (*free_fn)(void *ctx, void *block);
    void *ctx;
} sagemem_allocator;
SAGEMEM_API sagemem_allocator sagemem_allocator_for(sagemem_heap *heap, sagemem_tag tag);

/* -- Blocks, looked at ---------------------------------------------------------------------------------
 * Threads: any, while the block is not being freed. A pointer that is not a live block goes to the fault
 * handler; if that returns, the result is 0, SAGEMEM_UNTAGGED or NULL. */
SAGEMEM_API size_t sagemem_size(const void *block); /* usable bytes: at least what was asked for, all may be used */
SAGEMEM_API sagemem_tag sagemem_tag_of(const void *block);
SAGEMEM_API sagemem_heap *sagemem_heap_of(const void *block);

/* True for the start of a live block of any heap; never faults, whatever the pointer. Exact on the owner's
 * thread; elsewhere exact unless the block is being freed. Takes a lock, and may walk one page. */
SAGEMEM_API bool sagemem_owns(const void *pointer);

/* Moves a block to another heap of this thread: the new address, or NULL and the block stays. The tag stays; the
 * alignment is the ordinary one. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_move(sagemem_heap *to, void *block);

/* Guards of one block: OK, E_CORRUPT, E_FOREIGN, E_STALE; says so in sagemem_last_error(), never calls the fault handler. */
SAGEMEM_API sagemem_status sagemem_check(const void *block);

/* Every block of the heap and its scopes, free ones too; the number damaged, each logged as an error. Never
 * calls the fault handler. Threads: owner. Cost: all blocks. */
SAGEMEM_API size_t sagemem_heap_check(sagemem_heap *heap);

typedef struct sagemem_block_info {
    const void *block;
    size_t size; /* usable bytes */
    sagemem_tag tag;
    sagemem_heap *heap;
    const char *scope_kind; /* NULL: in no scope */
    uint64_t scope_id;
    const char *file; /* NULL: unknown; needs SAGEMEM_HEAP_SITES or _CHECKED, and SAGEMEM_SITES where it was allocated */
    int line;
} sagemem_block_info;

/* Calls visit for every live block of the heap and its open scopes, in no particular order. visit must not
 * allocate from or free into that heap. Threads: owner. */
SAGEMEM_API void sagemem_heap_visit(sagemem_heap *heap, void (*visit)(void *ctx, const sagemem_block_info *info), void *ctx);

/* -- Scopes --------------------------------------------------------------------------------------------
 * Between begin and end every allocation from the heap belongs to the scope and is gone at the end. Blocks
 * from before may be freed or resized inside; they stay where they were made. Scopes nest. Threads: owner. */

/* kind is copied once per kind ("forest"; at most 63 bytes count); id tells scopes of a kind apart. */
SAGEMEM_API sagemem_status sagemem_scope_begin(sagemem_heap *heap, const char *kind, uint64_t id);
/* Ends the innermost scope: clean-ups, last first, then its memory. Not begun: E_ARGUMENT to the fault handler.
 * E_CORRUPT: a checked scope had damaged blocks, and has ended all the same. Cost: the scope's pages and tags, not its
 * blocks; pages are kept, by the heap or by the process: only mappings above 16 MiB go to the system here. */
SAGEMEM_API sagemem_status sagemem_scope_end(sagemem_heap *heap);
/* Carries a block one scope outwards; only this block, not what it points to. Returns its new address; NULL:
 * the block stays. A block in no scope is returned unchanged. Cost: a copy; none for a block with pages of its own. A
 * copy has the ordinary alignment, whatever the block had. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_keep(void *block);
/* Calls cleanup(ctx) when the innermost scope ends, the heap is reset or destroyed, or the owning thread
 * ends. cleanup may use the scope's blocks. E_ARGUMENT: no scope is open. */
SAGEMEM_API sagemem_status sagemem_scope_defer(sagemem_heap *heap, void (*cleanup)(void *ctx), void *ctx);

/* -- Statistics ----------------------------------------------------------------------------------------
 * Threads: any, at any time; exact when nobody is allocating or freeing. They include what is below: scopes
 * and child heaps. heap NULL: the process. Used counts blocks at their usable size; held counts pages. */
typedef struct sagemem_tag_stats {
    uint64_t used, peak;                /* bytes now; most bytes at once */
    uint64_t blocks, peak_blocks;       /* live blocks now; most at once */
    uint64_t total_blocks, total_bytes; /* ever allocated */
} sagemem_tag_stats;
typedef struct sagemem_heap_stats {
    uint64_t used, used_peak;
    uint64_t held, held_peak;
    uint64_t blocks, total_blocks;
    uint64_t scopes;          /* open now */
    uint64_t overhead;        /* of held: headers and, for the process, the library's own structures */
    uint64_t mapped;          /* mapped files; neither used nor held */
    uint64_t huge_page_bytes; /* of held: really on huge pages */
    uint64_t reserved;        /* of held: claimed by sagemem_reserve and not yet taken */
} sagemem_heap_stats;
typedef struct sagemem_scope_stats {
    const char *kind;
    uint64_t id, used_peak, held_peak, total_blocks, duration_ns;
} sagemem_scope_stats;

SAGEMEM_API sagemem_status sagemem_heap_get_stats(const sagemem_heap *heap, sagemem_heap_stats *out);
SAGEMEM_API sagemem_status sagemem_tag_get_stats(const sagemem_heap *heap, sagemem_tag tag, sagemem_tag_stats *out);
/* What the tag held when the total was at its peak; over all tags these add up to used_peak. */
SAGEMEM_API sagemem_status sagemem_peak_get_stats(const sagemem_heap *heap, sagemem_tag tag, uint64_t *used_at_peak);
/* The scope that ended last in this heap, and its tags; until the next scope ends. E_NOT_FOUND: none has. Threads: owner. */
SAGEMEM_API sagemem_status sagemem_scope_get_last(const sagemem_heap *heap, sagemem_scope_stats *out);
SAGEMEM_API sagemem_status sagemem_scope_tag_get_last(const sagemem_heap *heap, sagemem_tag tag, sagemem_tag_stats *out);

/* ==========================================================================
 * >>budget  Limits on bytes held: process, heap, scope. Enforced when pages are taken, never overshot.
 * ========================================================================== */

/* Limits the innermost open scope; 0 lifts it. Threads: owner. E_ARGUMENT: no scope is open. */
SAGEMEM_API sagemem_status sagemem_scope_limit(sagemem_heap *heap, uint64_t bytes);

/* Limits a heap (NULL: the process) and all below it; 0 lifts it. Below what is held already: the reclaimers
 * run, and nothing new is taken until enough has been given back. Threads: any. */
SAGEMEM_API sagemem_status sagemem_limit_set(sagemem_heap *heap, uint64_t bytes);

/* What this process may use, in bytes: the least of physical memory, every cgroup (v1, v2) limit above us, and
 * RLIMIT_AS. Reads a few small files. */
SAGEMEM_API uint64_t sagemem_limit_detect(void);

/* Sets the number of bytes claimed now for the heap (NULL: the process), so that later allocation cannot fail
 * for budget; 0 gives the rest back. Counts as held; shrinks as pages are taken. E_LIMIT: nothing changed. */
SAGEMEM_API sagemem_status sagemem_reserve(sagemem_heap *heap, uint64_t bytes);

/* A function that gives memory back when a limit is met: called in the thread that met it, with no lock held,
 * lowest priority number first, until it is enough; it returns the bytes given back (0: none, the next is
 * asked) and may free and allocate. `name` is copied. E_FULL: 64 are registered. Threads: any. */
typedef uint64_t (*sagemem_reclaim_fn)(void *ctx, uint64_t wanted_bytes);
SAGEMEM_API sagemem_status sagemem_reclaimer_add(const char *name, int priority, sagemem_reclaim_fn reclaim, void *ctx);
SAGEMEM_API sagemem_status sagemem_reclaimer_remove(const char *name); /* E_NOT_FOUND */

typedef enum sagemem_pressure { SAGEMEM_PRESSURE_OK, SAGEMEM_PRESSURE_WARNING, SAGEMEM_PRESSURE_CRITICAL } sagemem_pressure;
typedef struct sagemem_system_memory {
    uint64_t total, available, used; /* the machine's, bytes */
    uint64_t resident;               /* this process, as the system counts it */
    uint64_t limit;                  /* sagemem_limit_detect() */
    double usage_percent;            /* the larger of used/total and resident/limit */
    sagemem_pressure pressure;       /* by the thresholds of sagemem_pressure_watch [80, 95] */
} sagemem_system_memory;
SAGEMEM_API sagemem_status sagemem_system_memory_get(sagemem_system_memory *out);

/* Calls changed_fn when the pressure level changes. interval_ms > 0: a thread looks that often. 0: looked at
 * when pages are taken, at most once a second, in the thread that takes them. changed_fn NULL ends watching
 * (and waits for the thread). E_ARGUMENT: not 0 < warning <= critical <= 100. Threads: any. */
SAGEMEM_API sagemem_status sagemem_pressure_watch(double warning_percent, double critical_percent,
                                                  void (*changed_fn)(void *ctx, const sagemem_system_memory *now), void *ctx,
                                                  uint32_t interval_ms);

/* Gives unused pages back to the system: those in the process-wide cache and those kept by the calling thread's
 * heaps; other heaps do it at their next slow path. Returns the bytes given back. Threads: any. */
SAGEMEM_API uint64_t sagemem_trim(void);

/* ==========================================================================
 * >>pool  Objects of one size, and buffers of many sizes that are used again.
 *
 * Objects of this and the layers below belong to the scope that is open in their heap when they are made (or to the
 * heap): all memory comes from there, whatever scope is open when they grow, and they end with it as if destroyed,
 * last made first. A call on one that has ended is E_STALE at the fault handler, from a wrong thread E_BUSY.
 * Threads: the heap's owner (any, one at a time, in a SAGEMEM_HEAP_SHARED heap).
 * ========================================================================== */

typedef struct sagemem_pool sagemem_pool;

/* Zero in every field is its default, in brackets; object_size must be given. */
typedef struct sagemem_pool_desc {
    sagemem_heap *heap; /* [the thread's default] */
    sagemem_tag tag;
    const char *name;                /* in messages and reports ["pool"]; copied */
    size_t object_size;              /* bytes; 1 ... 256 KiB */
    size_t alignment;                /* of each object: a power of two up to 4096 [16] */
    size_t initial_count, max_count; /* objects: room in the first block [as fits one page]; most at once [no limit] */
    double growth;                   /* each block has room for so many times the objects of the one before, up to 1 MiB [2.0] */
    sagemem_status (*init_fn)(void *ctx, void *object); /* makes what the object owns; not OK: the allocation fails with that
                                                           status and nothing is taken. The object's bytes are undefined before */
    void (*cleanup_fn)(void *ctx, void *object);        /* frees what the object owns: at free, reset, destroy, scope end */
    sagemem_status (*copy_fn)(void *ctx, void *to, const void *from); /* makes `to` a copy that owns its own parts, instead of
                                                                         init_fn; not OK: as for init_fn [bytes are copied] */
    void *ctx;
    bool bypass; /* each object is a block of the heap, same results: for comparing, and for tools that look at blocks */
} sagemem_pool_desc;

/* A pool; NULL on failure (E_ARGUMENT, E_NOMEM, E_LIMIT). The hooks may use the heap, but not this pool. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_pool *sagemem_pool_create(const sagemem_pool_desc *desc);

/* The desc with every default resolved; `name` is valid while the pool lives. */
SAGEMEM_API sagemem_status sagemem_pool_get_desc(const sagemem_pool *pool, sagemem_pool_desc *out);

/* An object at the lowest free address (of the block in use), initialised by init_fn; else undefined, or zero in a
 * SAGEMEM_HEAP_ZERO heap. NULL: E_FULL max_count objects are live, E_NOMEM, E_LIMIT, or init_fn's status; nothing has changed.
 * Cost: a few nanoseconds; a block from the heap now and then. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_pool_alloc(sagemem_pool *pool);

/* A copy of an object of this pool, of another one, or of none, by copy_fn. NULL as for sagemem_pool_alloc. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_pool_copy(sagemem_pool *pool, const void *from);

/* Cleans an object up and gives its place back; NULL is fine. To the fault handler: E_FOREIGN not an object of this pool,
 * E_STALE freed already, E_CORRUPT written to after it was freed. */
SAGEMEM_API void sagemem_pool_free(sagemem_pool *pool, void *object);

/* Calls visit for every live object in the order of blocks and addresses, until it returns false. visit may free the object
 * it is given, and no other; what it allocates may or may not be visited. */
SAGEMEM_API void sagemem_pool_each(sagemem_pool *pool, bool (*visit)(void *ctx, void *object), void *ctx);

/* Frees every object (cleanup_fn runs for each); the blocks stay for the next ones. */
SAGEMEM_API void sagemem_pool_reset(sagemem_pool *pool);

/* Gives blocks without objects back to the heap; bytes given back. */
SAGEMEM_API uint64_t sagemem_pool_trim(sagemem_pool *pool);

/* Frees every object, all blocks and the pool; NULL is fine. */
SAGEMEM_API void sagemem_pool_destroy(sagemem_pool *pool);

typedef struct sagemem_pool_stats {
    uint64_t objects, peak_objects; /* live now; most at once */
    uint64_t capacity;              /* objects that the blocks have room for */
    uint64_t blocks, held;          /* taken from the heap; their bytes */
    uint64_t total_allocs;          /* objects ever handed out */
} sagemem_pool_stats;
SAGEMEM_API sagemem_status sagemem_pool_get_stats(const sagemem_pool *pool, sagemem_pool_stats *out);

/* SAGEMEM_POOL_OF(galaxy_pool, struct GALAXY); at file scope, after the complete type: galaxy_pool_create(desc) (desc may be
 * NULL; size and alignment are the type's), and _alloc, _copy, _free, _each, _reset, _destroy, _get_stats with struct GALAXY *
 * in place of void *. C and C++. */
#define SAGEMEM_POOL_OF(pool_name, type)                                                                                           \
    typedef struct pool_name##_visitor {                                                                                           \
        bool (*visit)(void *ctx, type *object);                                                                                    \
        void *ctx;                                                                                                                 \
    } pool_name##_visitor;                                                                                                         \
    SAGEMEM_UNUSED static inline sagemem_pool *pool_name##_create(const sagemem_pool_desc *desc) {                                 \
        static const sagemem_pool_desc defaults = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false};                                     \
        sagemem_pool_desc typed = desc ? *desc : defaults;                                                                         \
        typed.object_size = sizeof(type);                                                                                          \
        if (typed.alignment == 0 && __alignof__(type) > 16) typed.alignment = __alignof__(type);                                   \
        return sagemem_pool_create(&typed);                                                                                        \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline type *pool_name##_alloc(sagemem_pool *pool) { return (type *)sagemem_pool_alloc(pool); }          \
    SAGEMEM_UNUSED static inline type *pool_name##_copy(sagemem_pool *pool, const type *from) {                                    \
        return (type *)sagemem_pool_copy(pool, from);                                                                              \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline void pool_name##_free(sagemem_pool *pool, type *object) { sagemem_pool_free(pool, object); }      \
    SAGEMEM_UNUSED static inline bool pool_name##_visit_one(void *ctx, void *object) {                                             \
        return ((pool_name##_visitor *)ctx)->visit(((pool_name##_visitor *)ctx)->ctx, (type *)object);                             \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline void pool_name##_each(sagemem_pool *pool, bool (*visit)(void *ctx, type *object), void *ctx) {    \
        pool_name##_visitor visitor;                                                                                               \
        visitor.visit = visit;                                                                                                     \
        visitor.ctx = ctx;                                                                                                         \
        sagemem_pool_each(pool, pool_name##_visit_one, &visitor);                                                                  \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline void pool_name##_reset(sagemem_pool *pool) { sagemem_pool_reset(pool); }                          \
    SAGEMEM_UNUSED static inline void pool_name##_destroy(sagemem_pool *pool) { sagemem_pool_destroy(pool); }                      \
    SAGEMEM_UNUSED static inline sagemem_status pool_name##_get_stats(const sagemem_pool *pool, sagemem_pool_stats *out) {         \
        return sagemem_pool_get_stats(pool, out);                                                                                  \
    }                                                                                                                              \
    typedef int pool_name##_needs_a_semicolon

/* A recycler keeps buffers that were released and hands them out again, the best fit first: for read buffers, sequences,
 * messages of many sizes that come and go. */
typedef struct sagemem_recycler sagemem_recycler;
typedef struct sagemem_recycler_desc {
    sagemem_heap *heap;
    sagemem_tag tag;
    const char *name;        /* ["recycler"] */
    uint64_t max_idle_bytes; /* kept for later, released longest ago go first [no limit] */
    size_t max_idle_count;   /* [1024] */
    double slack;            /* a buffer may be up to this many times the size asked for [2.0]; at least 1 */
    size_t alignment;        /* of every buffer: a power of two up to 4096 [16] */
} sagemem_recycler_desc;
typedef struct sagemem_recycler_stats {
    uint64_t hits, misses;             /* acquired from what was kept; from the heap */
    uint64_t idle_bytes, idle_buffers; /* kept for later now */
    uint64_t out_bytes, out_buffers;   /* acquired and not yet released */
} sagemem_recycler_stats;
SAGEMEM_API SAGEMEM_NODISCARD sagemem_recycler *
sagemem_recycler_create(const sagemem_recycler_desc *desc); /* NULL desc: defaults */
SAGEMEM_API sagemem_status sagemem_recycler_get_desc(const sagemem_recycler *recycler, sagemem_recycler_desc *out);
/* A buffer of at least `size` bytes (sagemem_size says how many), contents undefined; NULL: E_NOMEM, E_LIMIT, E_ARGUMENT.
 * Cost: logarithmic in the number of idle buffers. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_recycler_acquire(sagemem_recycler *recycler, size_t size);
/* Gives a buffer back to the recycler that it came from; NULL is fine. To the fault handler: E_FOREIGN not one of its
 * buffers, E_STALE released already. */
SAGEMEM_API void sagemem_recycler_release(sagemem_recycler *recycler, void *buffer);
SAGEMEM_API uint64_t sagemem_recycler_trim(sagemem_recycler *recycler); /* frees idle buffers; bytes given back */
SAGEMEM_API sagemem_status sagemem_recycler_get_stats(const sagemem_recycler *recycler, sagemem_recycler_stats *out);
/* Frees the recycler and all its buffers, those in use as well; NULL is fine. */
SAGEMEM_API void sagemem_recycler_destroy(sagemem_recycler *recycler);

/* ==========================================================================
 * >>arena  Bump allocation: everything goes at once, or back to a mark. References that survive growth and files.
 * ========================================================================== */

typedef struct sagemem_arena sagemem_arena;
typedef struct sagemem_arena_desc {
    sagemem_heap *heap;
    sagemem_tag tag;
    const char *name;   /* ["arena"] */
    size_t chunk_bytes; /* 1 KiB ... 1 GiB; what is larger than a quarter of it and does not fit gets a chunk of its own [64 KiB] */
    uint64_t max_bytes; /* of all chunks [no limit] */
} sagemem_arena_desc;

/* Where the arena was: for sagemem_arena_rewind. */
typedef struct sagemem_arena_mark {
    uint64_t position, serial;
} sagemem_arena_mark;

/* What was put: zero in all fields is none. Good after growth, and in an arena loaded from what this one saved. */
typedef struct sagemem_arena_ref {
    uint32_t chunk, offset; /* chunks count from 1 */
    uint64_t length;        /* bytes */
} sagemem_arena_ref;

typedef struct sagemem_arena_stats {
    uint64_t used, peak_used; /* bytes given out, padding included; most at once */
    uint64_t held, chunks;    /* bytes and number of blocks taken from the heap */
} sagemem_arena_stats;

SAGEMEM_API SAGEMEM_NODISCARD sagemem_arena *sagemem_arena_create(const sagemem_arena_desc *desc); /* NULL desc: all defaults */
SAGEMEM_API sagemem_status sagemem_arena_get_desc(const sagemem_arena *arena, sagemem_arena_desc *out);
SAGEMEM_API sagemem_status sagemem_arena_get_stats(const sagemem_arena *arena, sagemem_arena_stats *out);

/* Bytes at a multiple of 16 (of alignment, a power of two up to 4096), never moved; undefined, or zero in a SAGEMEM_HEAP_ZERO
 * heap. Size 0 is a place of its own. NULL: E_ARGUMENT, E_NOMEM, E_LIMIT, E_FULL for max_bytes; nothing has changed. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_arena_alloc(sagemem_arena *arena, size_t size);
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_arena_alloc_aligned(sagemem_arena *arena, size_t size, size_t alignment);

/* Copies data (may be NULL when size is 0) into the arena, at any address. A zeroed ref: as NULL above. */
SAGEMEM_API sagemem_arena_ref sagemem_arena_put(sagemem_arena *arena, const void *data, size_t size);
/* What was put, until it is rewound or reset; *size (may be NULL) is ref.length. NULL: E_ARGUMENT, the ref points outside of
 * what is used. Threads: any number at once while nobody changes the arena. */
SAGEMEM_API const void *sagemem_arena_get(const sagemem_arena *arena, sagemem_arena_ref ref, size_t *size);

/* Everything allocated after the mark goes; the chunks stay for what comes next, large ones of their own go to the heap. A
 * mark that was itself rewound is E_STALE at the fault handler. */
SAGEMEM_API sagemem_arena_mark sagemem_arena_get_mark(sagemem_arena *arena);
SAGEMEM_API void sagemem_arena_rewind(sagemem_arena *arena, sagemem_arena_mark mark);
SAGEMEM_API void sagemem_arena_reset(sagemem_arena *arena);    /* everything goes, the chunks stay */
SAGEMEM_API uint64_t sagemem_arena_trim(sagemem_arena *arena); /* unused chunks go to the heap; bytes given back */
SAGEMEM_API void sagemem_arena_destroy(sagemem_arena *arena);  /* NULL is fine */

/* Writes the arena to a sink: a header with version, byte order and checksum, then the used part of each chunk. E_IO and
 * whatever the sink returns. Addresses stored inside the data are not translated: store refs. */
SAGEMEM_API sagemem_status sagemem_arena_save(const sagemem_arena *arena, const sagemem_sink *to);
/* An arena with what was saved, refs included; data (a mapped file, say) is copied and not needed afterwards. NULL: E_CORRUPT
 * (not such an image, cut short, damaged), E_UNSUPPORTED (a newer version, other byte order), E_NOMEM, E_LIMIT. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_arena *sagemem_arena_load(const sagemem_arena_desc *desc, const void *data, size_t size);

/* ==========================================================================
 * >>array  Geometric growth for any code, typed arrays, arrays that never move, columns that grow together.
 * ========================================================================== */

/* Makes room for at least min_capacity elements in *data, a block of sagemem_alloc or NULL, by a factor of growth (more than 1;
 * 0: 1.5), and sets *capacity, counted in elements. *data NULL: default heap, untagged; else the block's own heap, scope and tag.
 * Returns OK and changes nothing when the capacity is enough already. On failure (E_ARGUMENT, E_NOMEM, E_LIMIT) nothing is
 * changed. Threads: the block's owner. Cost: O(log n) of these for n elements pushed one by one. */
SAGEMEM_API sagemem_status sagemem_array_grow(void **data, size_t element_size, size_t *capacity, size_t min_capacity,
                                              double growth);

typedef struct sagemem_array_desc {
    sagemem_heap *heap;
    sagemem_tag tag;
    size_t element_size;     /* bytes; must be given (SAGEMEM_ARRAY_OF gives it) */
    size_t initial_capacity; /* elements [as many as fit 64 bytes, at least 1] */
    double growth;           /* more than 1 [1.5] */
    size_t stable_max;       /* > 0: addresses for so many elements are set aside and pages committed as they fill: elements never
                                move, nothing is ever copied, and old and new are never needed at once */
} sagemem_array_desc;

/* Owned by whoever declares it; its elements are one block of the heap, made by init and gone with the scope or heap that was
 * current then. Zeroed, it is no array yet: E_ARGUMENT. A copy of the struct is the same array: use one only. */
typedef struct sagemem_array {
    void *data;
    size_t count, capacity, element_size;
    double growth;
    size_t stable_max; /* 0: the block moves when it grows */
} sagemem_array;

/* On failure *array is zeroed. Heaps with a source of their own, of SAGEMEM_HEAP_SYSTEM or _CHECKED take all of
 * stable_max at once. */
SAGEMEM_API sagemem_status sagemem_array_init(sagemem_array *array, const sagemem_array_desc *desc);
SAGEMEM_API sagemem_status sagemem_array_get_desc(const sagemem_array *array, sagemem_array_desc *out);
/* Appends a copy of one element (which may lie in the array). Failures of this and the next three: E_ARGUMENT (a size that
 * overflows), E_FULL (stable_max), E_NOMEM, E_LIMIT; the array is as it was. */
SAGEMEM_API sagemem_status sagemem_array_push(sagemem_array *array, const void *element);
/* Appends count elements, undefined (zero in a SAGEMEM_HEAP_ZERO heap), and returns the first; NULL: failed. */
SAGEMEM_API void *sagemem_array_add(sagemem_array *array, size_t count);
SAGEMEM_API sagemem_status sagemem_array_resize(sagemem_array *array, size_t count); /* new elements as by _add */
SAGEMEM_API sagemem_status sagemem_array_reserve(sagemem_array *array, size_t capacity);
SAGEMEM_API void *sagemem_array_at(const sagemem_array *array, size_t index); /* NULL past the end */
/* Removes an element; the last one takes its place. E_ARGUMENT in sagemem_last_error() past the end: nothing happens. */
SAGEMEM_API void sagemem_array_remove_swap(sagemem_array *array, size_t index);
/* Gives room behind the last element back. Never fails for lack of memory: then the array stays as it is. */
SAGEMEM_API sagemem_status sagemem_array_shrink(sagemem_array *array);
SAGEMEM_API void sagemem_array_deinit(sagemem_array *array); /* frees the elements and zeroes *array; a zeroed one is fine */
SAGEMEM_API size_t sagemem_array_count(const sagemem_array *array);
SAGEMEM_API size_t sagemem_array_capacity(const sagemem_array *array);
SAGEMEM_API void *sagemem_array_data(const sagemem_array *array);

/* SAGEMEM_ARRAY_OF(galaxy_array, struct GALAXY); at file scope, after the complete, trivially copyable type: the type
 * galaxy_array { sagemem_array base; } and galaxy_array_init(a, desc) (desc may be NULL), _push(a, const struct GALAXY *),
 * _add(a, n), _at(a, i), _data(a), _count, _capacity, _resize, _reserve, _remove_swap, _shrink, _deinit. C and C++. */
#define SAGEMEM_ARRAY_OF(array_name, type)                                                                                         \
    typedef struct array_name {                                                                                                    \
        sagemem_array base;                                                                                                        \
    } array_name;                                                                                                                  \
    SAGEMEM_UNUSED static inline sagemem_status array_name##_init(array_name *array, const sagemem_array_desc *desc) {             \
        static const sagemem_array_desc defaults = {0, 0, 0, 0, 0, 0};                                                             \
        sagemem_array_desc typed = desc ? *desc : defaults;                                                                        \
        typed.element_size = sizeof(type);                                                                                         \
        return sagemem_array_init(&array->base, &typed);                                                                           \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline sagemem_status array_name##_push(array_name *array, const type *element) {                        \
        if (array->base.count == array->base.capacity) return sagemem_array_push(&array->base, element);                           \
        ((type *)array->base.data)[array->base.count++] = *element;                                                                \
        return SAGEMEM_OK;                                                                                                         \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline type *array_name##_add(array_name *array, size_t count) {                                         \
        return (type *)sagemem_array_add(&array->base, count);                                                                     \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline type *array_name##_at(const array_name *array, size_t index) {                                    \
        return index < array->base.count ? (type *)array->base.data + index : (type *)sagemem_array_at(&array->base, index);       \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline type *array_name##_data(const array_name *array) { return (type *)array->base.data; }             \
    SAGEMEM_UNUSED static inline size_t array_name##_count(const array_name *array) { return array->base.count; }                  \
    SAGEMEM_UNUSED static inline size_t array_name##_capacity(const array_name *array) { return array->base.capacity; }            \
    SAGEMEM_UNUSED static inline sagemem_status array_name##_resize(array_name *array, size_t count) {                             \
        return sagemem_array_resize(&array->base, count);                                                                          \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline sagemem_status array_name##_reserve(array_name *array, size_t capacity) {                         \
        return sagemem_array_reserve(&array->base, capacity);                                                                      \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline void array_name##_remove_swap(array_name *array, size_t index) {                                  \
        sagemem_array_remove_swap(&array->base, index);                                                                            \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline sagemem_status array_name##_shrink(array_name *array) {                                           \
        return sagemem_array_shrink(&array->base);                                                                                 \
    }                                                                                                                              \
    SAGEMEM_UNUSED static inline void array_name##_deinit(array_name *array) { sagemem_array_deinit(&array->base); }               \
    typedef int array_name##_needs_a_semicolon

/* A structure of arrays: named columns with one count, each aligned to 64 bytes, all in one block. */
typedef struct sagemem_columns sagemem_columns;
typedef struct sagemem_column {
    const char *name; /* may be NULL; copied */
    size_t element_size;
} sagemem_column;
typedef struct sagemem_columns_desc {
    sagemem_heap *heap;
    sagemem_tag tag;
    const char *name;              /* ["columns"] */
    const sagemem_column *columns; /* must be given; copied */
    size_t column_count;
    size_t initial_capacity; /* rows [none until the first] */
    double growth;           /* more than 1 [1.5] */
} sagemem_columns_desc;
SAGEMEM_API SAGEMEM_NODISCARD sagemem_columns *sagemem_columns_create(const sagemem_columns_desc *desc);
SAGEMEM_API sagemem_status sagemem_columns_get_desc(const sagemem_columns *columns, sagemem_columns_desc *out);
/* The column's first element; valid until the columns grow, shrink or end. NULL: E_ARGUMENT, no such column; or no row yet. */
SAGEMEM_API void *sagemem_columns_data(sagemem_columns *columns, size_t column);
SAGEMEM_API size_t sagemem_columns_find(const sagemem_columns *columns, const char *name); /* its number; SIZE_MAX: E_NOT_FOUND */
SAGEMEM_API size_t sagemem_columns_count(const sagemem_columns *columns);
SAGEMEM_API size_t sagemem_columns_capacity(const sagemem_columns *columns);
/* Appends rows, undefined (zero in a SAGEMEM_HEAP_ZERO heap). Failures as for arrays: every column is as it was. */
SAGEMEM_API sagemem_status sagemem_columns_add(sagemem_columns *columns, size_t count);
SAGEMEM_API sagemem_status sagemem_columns_resize(sagemem_columns *columns, size_t count);
SAGEMEM_API sagemem_status sagemem_columns_reserve(sagemem_columns *columns, size_t capacity);
SAGEMEM_API void sagemem_columns_remove_swap(sagemem_columns *columns, size_t row);
SAGEMEM_API sagemem_status sagemem_columns_shrink(sagemem_columns *columns);
SAGEMEM_API void sagemem_columns_destroy(sagemem_columns *columns); /* NULL is fine */

/* ==========================================================================
 * >>slice  Counted, shared, bounds-checked views of bytes.
 * ========================================================================== */

/* size bytes at data; a view of what `owner` keeps. Passed by value; each slice that was returned or retained is to be released
 * once. Zeroed: no slice (every call takes it: retain returns it, release ignores it). */
typedef struct sagemem_slice {
    const void *data;
    size_t size;
    struct sagemem_slice_owner *owner;
    uint64_t serial; /* of the owner: tells a slice that outlived its bytes */
} sagemem_slice;

/* A copy of the bytes in a block of the heap, freed with the last slice of it. Zeroed: E_NOMEM, E_LIMIT, E_ARGUMENT. The block
 * belongs to the open scope like any other: slices of it must be released before that ends. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_copy(sagemem_heap *heap, const void *data, size_t size, sagemem_tag tag);
/* Takes a block of sagemem_alloc over without copying; size bytes of it are seen. Zeroed: it stays the caller's. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_take(void *block, size_t size);
/* A view of foreign memory: a mapped file, a library's buffer. release_fn (may be NULL) is called with the last release, in the
 * thread that does it. Zeroed: E_NOMEM, E_ARGUMENT, and release_fn is not called. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_wrap(const void *data, size_t size,
                                                               void (*release_fn)(void *ctx, const void *data), void *ctx);
/* Threads of these: any. One more for the same bytes; one less. To the fault handler: E_STALE, the last one was released
 * already (each release is told from the use of a later slice by its serial). */
SAGEMEM_API sagemem_slice sagemem_slice_retain(sagemem_slice slice);
SAGEMEM_API void sagemem_slice_release(sagemem_slice slice);
/* The bytes start ... end of a slice, end not included, as a slice of its own (to be released). E_ARGUMENT: not
 * start <= end <= size; *out is zeroed. */
SAGEMEM_API sagemem_status sagemem_slice_sub(sagemem_slice slice, size_t start, size_t end, sagemem_slice *out);
/* size bytes from `at` on: where they lie, or NULL with E_ARGUMENT when they reach past the end. Nothing is counted. */
SAGEMEM_API const void *sagemem_slice_at(sagemem_slice slice, size_t at, size_t size);
SAGEMEM_API uint64_t sagemem_slice_count(sagemem_slice slice); /* slices that share the bytes now; 0: none, or ended */

/* ==========================================================================
 * >>map  Files in memory: whole, in part, or a window that slides; read where mapping is off or fails, the same bytes.
 * ========================================================================== */

typedef struct sagemem_map sagemem_map;
typedef enum sagemem_map_mode {
    SAGEMEM_MAP_READ,    /* nobody writes */
    SAGEMEM_MAP_PRIVATE, /* writable; what is written stays in this process */
    SAGEMEM_MAP_WRITE    /* writable; what is written reaches the file: at sagemem_map_flush and close at the latest */
} sagemem_map_mode;
typedef enum sagemem_map_access { SAGEMEM_ACCESS_NORMAL, SAGEMEM_ACCESS_SEQUENTIAL, SAGEMEM_ACCESS_RANDOM } sagemem_map_access;

/* Zero in every field is its default, in brackets; path or fd_plus_one must be given. */
typedef struct sagemem_map_desc {
    const char *path;        /* a regular file; */
    int fd_plus_one;         /* or a descriptor + 1, which is duplicated: the caller's stays the caller's */
    uint64_t offset, length; /* any bytes, not only page multiples; what is past the end is cut off [0, to the end] */
    sagemem_map_mode mode;
    sagemem_map_access access;
    uint64_t threshold; /* smaller files are read, not mapped [0: always map] */
    uint64_t window;    /* only so many bytes are mapped or kept at a time, and views slide over the file [0: all of it] */
    bool no_mapping;    /* read, never map */
    bool no_fallback;   /* where mapping fails, fail; do not read */
    bool populate;      /* read all of it now, not when it is touched */
    bool huge_pages;    /* ask for huge pages (file systems that have them) */
    int numa_node_plus_one;
    sagemem_heap *heap; /* accounts for the bytes: mapped ones as `mapped`, read ones as a block of its tag */
    sagemem_tag tag;
} sagemem_map_desc;

/* NULL: E_ARGUMENT; E_NOT_FOUND no such file; E_IO with os_error (a directory, no permission, ...); E_NOMEM, E_LIMIT;
 * E_UNSUPPORTED mapping failed and no_fallback. An empty file is a map of size 0. The map belongs to the open scope. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_map *sagemem_map_open(const sagemem_map_desc *desc);
SAGEMEM_API sagemem_status sagemem_map_get_desc(const sagemem_map *map, sagemem_map_desc *out); /* length: what was found */
/* Flushes a _WRITE map and closes it; all views end. E_IO: the flush failed, the map is still open and can be closed again. */
SAGEMEM_API sagemem_status sagemem_map_close(sagemem_map *map); /* NULL is fine */

/* The first byte; NULL for a map of size 0 or with a window (use views). Never NULL otherwise. Threads: any, as long as nobody
 * closes, refreshes or writes: so too size, is_mapped, read, prefetch, and view without a window. */
SAGEMEM_API const void *sagemem_map_data(const sagemem_map *map);
SAGEMEM_API uint64_t sagemem_map_size(const sagemem_map *map);
SAGEMEM_API bool sagemem_map_is_mapped(const sagemem_map *map); /* false: the bytes were read */

/* size bytes from offset (in the map) on; mapped or read, the same bytes. With a window: until the next view, and what is
 * behind is dropped. NULL: E_ARGUMENT past the end, E_TOO_BIG larger than the window, E_IO, E_NOMEM. Reading a mapped view of
 * a file that someone else cuts short is a SIGBUS: where that can happen use sagemem_map_read. */
SAGEMEM_API const void *sagemem_map_view(sagemem_map *map, uint64_t offset, size_t size);
/* The same as data, to write to; NULL: E_ARGUMENT, the map is _READ or has a window. */
SAGEMEM_API void *sagemem_map_data_writable(sagemem_map *map);
/* Brings what was written to a _WRITE map to the file (and to the disk). E_IO: can be repeated. _PRIVATE: nothing to do. */
SAGEMEM_API sagemem_status sagemem_map_flush(sagemem_map *map);
/* Copies bytes out, guarded: a file that was cut short is E_IO with the offset, not a signal. E_ARGUMENT: past the end.
 * After a failure `to` is undefined. Cost: a system call. */
SAGEMEM_API sagemem_status sagemem_map_read(sagemem_map *map, uint64_t offset, void *to, size_t size);
/* Asks the system for the bytes ahead and returns at once; a wish, cut off at the end of the map. */
SAGEMEM_API sagemem_status sagemem_map_prefetch(sagemem_map *map, uint64_t offset, uint64_t size);
/* Looks at the file again, which may have grown or shrunk; a length given in the desc still bounds it. All views end. On
 * failure the map is as it was. What was written to a _PRIVATE map is gone; to a _WRITE map, flushed. */
SAGEMEM_API sagemem_status sagemem_map_refresh(sagemem_map *map);

/* ==========================================================================
 * >>io  Writer: buffered, positioned, nothing accepted is lost silently. Reader: one interface over files, pipes, maps and
 *       own sources.
 * ========================================================================== */

typedef struct sagemem_writer sagemem_writer;
typedef enum sagemem_sync {
    SAGEMEM_SYNC_NONE,       /* the system writes to the disk when it likes */
    SAGEMEM_SYNC_AT_CLOSE,   /* close returns when file (and, if atomic, its name) are on the disk */
    SAGEMEM_SYNC_EVERY_FLUSH /* each flush, too: after sagemem_writer_flush returned OK everything accepted is on the disk */
} sagemem_sync;

/* Zero in every field is its default, in brackets; one of path, fd_plus_one and sink must be given. */
typedef struct sagemem_writer_desc {
    const char *path;         /* made or emptied (with an offset: not emptied); 0666 less the umask */
    int fd_plus_one;          /* a descriptor + 1, which is duplicated: the caller's stays the caller's and must stay open for
                                  writing; pipes and sockets are written in order */
    const sagemem_sink *sink; /* own function; the struct is copied, what ctx points to is not */
    uint64_t offset;          /* in the file, of the first byte written */
    size_t initial_bytes;     /* of the buffer [1 MiB, less where the budget of all writers is short] */
    size_t min_bytes;         /* [64 KiB] */
    size_t max_bytes;         /* [8 MiB] */
    bool adaptive;            /* the buffer grows while it fills often, and shrinks when flushes find little in it */
    bool atomic;     /* write to a new file beside, rename at close: the old file or the new one, never a part. Needs path */
    bool background; /* a thread of the writer writes one buffer while the caller fills the next */
    sagemem_sync sync;
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_writer_desc;

/* NULL: E_ARGUMENT; E_NOT_FOUND no such directory; E_IO with os_error; E_NOMEM, E_LIMIT. The writer belongs to the open scope:
 * one that ends with it is abandoned, and reported as an error in the log if anything accepted was not yet written. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_writer *sagemem_writer_open(const sagemem_writer_desc *desc);
SAGEMEM_API sagemem_status sagemem_writer_get_desc(const sagemem_writer *writer, sagemem_writer_desc *out); /* initial_bytes: the
                                                                                                buffer's present size */

/* Appends bytes. OK: they are accepted, and will be written or reported. A failure accepts nothing and can be repeated: what is
 * pending is tried again first. E_IO: os_error says why (ENOSPC, EDQUOT, EPIPE, ...); on a pipe a leading part may have been
 * accepted: see sagemem_writer_accepted. Cost: a copy; a system call for each buffer. */
SAGEMEM_API sagemem_status sagemem_write(sagemem_writer *writer, const void *data, size_t size);
/* Room for a record of up to size bytes in the buffer, any alignment, valid until the next call on the writer; then
 * sagemem_write_end appends the first `used` of them (0: none). NULL: as for write; E_TOO_BIG, larger than max_bytes. */
SAGEMEM_API void *sagemem_write_begin(sagemem_writer *writer, size_t size);
SAGEMEM_API void sagemem_write_end(sagemem_writer *writer, size_t used);
/* Writes over bytes accepted earlier, still buffered or not; position is absolute in the file. E_ARGUMENT: not all of them have
 * been accepted. E_UNSUPPORTED: already written, to a pipe or socket. E_IO: nothing is patched, or a part of what was written
 * already; can be repeated. */
SAGEMEM_API sagemem_status sagemem_writer_patch(sagemem_writer *writer, uint64_t position, const void *data, size_t size);
/* Hands everything accepted to the system. E_IO: what is not written is kept; can be repeated. */
SAGEMEM_API sagemem_status sagemem_writer_flush(sagemem_writer *writer);
/* Flushes, syncs and renames as the desc asks, and frees the writer. Failed: it is still open and nothing was dropped; make
 * room and close again, or abandon. NULL is E_ARGUMENT. */
SAGEMEM_API sagemem_status sagemem_writer_close(sagemem_writer *writer);
/* Drops what is not written and frees the writer; in atomic mode the old file stays as it was. NULL is fine. */
SAGEMEM_API void sagemem_writer_abandon(sagemem_writer *writer);
/* Bytes accepted; of these, handed to the system (after close or abandon the file holds exactly those). Counted from the
 * desc's offset. */
SAGEMEM_API uint64_t sagemem_writer_accepted(const sagemem_writer *writer);
SAGEMEM_API uint64_t sagemem_writer_written(const sagemem_writer *writer);
/* Most bytes for the buffers of all writers of the process together [0: no limit]. Held at every moment from then on: buffers
 * shrink at their next flush, those of new writers are smaller, and one that finds nothing left writes through. Threads: any. */
SAGEMEM_API void sagemem_writers_set_budget(uint64_t bytes);

typedef struct sagemem_writers_stats {
    uint64_t writers, buffered, buffer_bytes, budget; /* open now; bytes pending; of all buffers; 0: none */
} sagemem_writers_stats;
SAGEMEM_API sagemem_status sagemem_writers_get_stats(sagemem_writers_stats *out); /* Threads: any */

/* Where bytes come from: read_fn puts up to size bytes of position `offset` on into `to` and says how many, 0 at the end. It is
 * called with increasing offsets without gaps, but for sagemem_read_at if `seekable`. */
typedef struct sagemem_input {
    sagemem_status (*read_fn)(void *ctx, void *to, size_t size, uint64_t offset, size_t *got);
    sagemem_status (*close_fn)(void *ctx); /* may be NULL */
    void *ctx;
    bool seekable;
} sagemem_input;

typedef struct sagemem_reader sagemem_reader;
typedef struct sagemem_reader_desc {
    const char *path;            /* a file, FIFO or device; */
    int fd_plus_one;             /* or a descriptor + 1, which is duplicated; files are read from their start */
    const sagemem_input *source; /* or own function; the struct is copied */
    size_t buffer_bytes;         /* [1 MiB] */
    int buffers;                 /* with read_ahead: this many, one in use, others filled by a thread [3] */
    bool read_ahead;
    uint64_t map_threshold; /* files of at least this size are mapped [0: all regular files] */
    bool no_mapping;        /* read, never map */
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_reader_desc;

/* NULL: as for sagemem_map_open. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_reader *sagemem_reader_open(const sagemem_reader_desc *desc);
SAGEMEM_API sagemem_status sagemem_reader_get_desc(const sagemem_reader *reader, sagemem_reader_desc *out);
/* Copies up to size bytes; *got is less only at the end (OK; 0 when nothing is left) or on failure (E_IO, or what the source
 * returned: the bytes got before it are good, and the call can be repeated). got may be NULL: then less than size is E_EMPTY. */
SAGEMEM_API sagemem_status sagemem_read(sagemem_reader *reader, void *to, size_t size, size_t *got);
/* The next size bytes where they lie, consumed; valid until the next call on the reader (of a mapped file: until close). NULL:
 * E_EMPTY, fewer are left, nothing is consumed; E_IO; E_NOMEM, E_LIMIT when the buffer has to grow for it. */
SAGEMEM_API const void *sagemem_read_view(sagemem_reader *reader, size_t size);
/* Copies size bytes of an absolute position without moving the reader. E_UNSUPPORTED: a pipe or a source that cannot seek.
 * E_EMPTY: past the end. */
SAGEMEM_API sagemem_status sagemem_read_at(sagemem_reader *reader, uint64_t offset, void *to, size_t size);
SAGEMEM_API sagemem_status sagemem_reader_skip(sagemem_reader *reader, uint64_t size); /* E_EMPTY: fewer are left, all skipped */
SAGEMEM_API uint64_t sagemem_reader_position(const sagemem_reader *reader);            /* bytes consumed so far */
SAGEMEM_API uint64_t sagemem_reader_size(const sagemem_reader *reader); /* of a file; UINT64_MAX: unknown until the end */
SAGEMEM_API bool sagemem_reader_is_mapped(const sagemem_reader *reader);
SAGEMEM_API sagemem_status
sagemem_reader_close(sagemem_reader *reader); /* NULL is fine; what close_fn returned, closed all the same */

/* ==========================================================================
 * >>report  What a person or a program reads.
 * ========================================================================== */

typedef enum sagemem_format { SAGEMEM_FORMAT_TEXT, SAGEMEM_FORMAT_BRIEF, SAGEMEM_FORMAT_JSON } sagemem_format;

/* Writes a report of the heap and what is below it (NULL: the process). The sink is called with locks held: it must not call
 * sagemem. Allocates nothing. Threads: any. */
SAGEMEM_API sagemem_status sagemem_report(const sagemem_heap *heap, sagemem_format format, const sagemem_sink *to);
SAGEMEM_API sagemem_status sagemem_report_file(const sagemem_heap *heap, sagemem_format format,
                                               const char *path); /* "-": standard output */
/* Writes a report of the process when it ends through exit() or main's return. leak_exit_status not 0: the process
 * ends with that status when blocks are left. Once per process; later calls change the settings. */
SAGEMEM_API sagemem_status sagemem_report_at_exit(sagemem_format format, const char *path, int leak_exit_status);

/* Runs run(ctx) again and again with one more of its allocations and system calls failing each time, first the
 * 1st, then the 2nd, ... until a run meets no failure; *points says how many there were (NULL: not wanted).
 * run must return OK, or a failure after which everything is as it was before. Returns the last run's
 * status: OK when the undisturbed run succeeded. Only the calling thread's calls fail. For tests. */
SAGEMEM_API sagemem_status sagemem_check_failures(sagemem_status (*run)(void *ctx), void *ctx, uint64_t *points);

/* ==========================================================================
 * Sites: with SAGEMEM_SITES defined before the include, the short calls pass on file and line, which heaps
 * with SAGEMEM_HEAP_SITES or _CHECKED keep for messages, visits and leak lists. The functions are the same.
 * ========================================================================== */

SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_alloc_at(sagemem_heap *heap, size_t size, sagemem_tag tag, const char *file,
                                                           int line);
SAGEMEM_API SAGEMEM_MALLOC_SIZE2(2, 3) void *sagemem_calloc_at(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag,
                                                               const char *file, int line);
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_realloc_at(sagemem_heap *heap, void *block, size_t size, sagemem_tag tag,
                                                       const char *file, int line);
SAGEMEM_API void sagemem_free_at(void *block, const char *file, int line);
SAGEMEM_API SAGEMEM_NODISCARD char *sagemem_strdup_at(sagemem_heap *heap, const char *text, sagemem_tag tag, const char *file,
                                                      int line);

/* Names the version in every object file: mixing versions of this header in one program does not link. */
#ifndef SAGEMEM_STATIC
SAGEMEM_API const char *sagemem_version_0_1(void);
static const char *(*const sagemem_version_wanted)(void)__attribute__((__used__)) = sagemem_version_0_1;
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SAGEMEM_H */

#ifdef SAGEMEM_IMPLEMENTATION
#ifndef SAGEMEM_IMPLEMENTED
#define SAGEMEM_IMPLEMENTED

#if !defined(__cplusplus) && (!defined(__STDC_VERSION__) || __STDC_VERSION__ < 201112L)
#error "sagemem: the implementation needs C11 or C++11; compile this file with -std=gnu11 or later"
#endif

/* ==========================================================================
 * >>os  Pages, locks, threads, clocks, atomics: the only code that knows an
 *       operating system or a compiler.
 *
 * Contract: smi_os_* functions that can fail return NULL or false with the
 * reason in smi_os_error(), have changed nothing, and can be made to fail by
 * sagemem_check_failures. None of them allocates from a heap.
 * ========================================================================== */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#define SMI_UNDEF_LEAN
#endif
#include <io.h>
#include <windows.h>
#ifdef SMI_UNDEF_LEAN
#undef WIN32_LEAN_AND_MEAN
#undef SMI_UNDEF_LEAN
#endif
#else
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define SMI_MAP_ANONYMOUS MAP_ANON
#elif defined(MAP_ANONYMOUS)
#define SMI_MAP_ANONYMOUS MAP_ANONYMOUS
#else
#error                                                                                                                             \
    "sagemem: system headers were included in strict mode before the implementation; include sagemem.h first, or compile with -std=gnu11 or -D_DEFAULT_SOURCE"
#endif
#ifdef MAP_NORESERVE
#define SMI_MAP_NORESERVE MAP_NORESERVE
#else
#define SMI_MAP_NORESERVE 0
#endif
#endif

/* Tools that watch memory. Valgrind is asked at run time, AddressSanitizer at compile time. */
#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define SMI_VALGRIND 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SMI_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SMI_ASAN 1
#endif
#endif
#ifdef SMI_ASAN
#include <sanitizer/asan_interface.h>
#endif

#define SMI_LIKELY(x) __builtin_expect(!!(x), 1)
#define SMI_UNLIKELY(x) __builtin_expect(!!(x), 0)
/* What holds where the compiler and its analyzer cannot see it. */
#define SMI_ASSUME(x) ((x) ? (void)0 : __builtin_unreachable())
#define SMI_INLINE static inline __attribute__((always_inline))
/* What some layers need and others do not: they may all be off. */
#define SMI_FOR_LAYERS SAGEMEM_UNUSED static
#define SMI_NOINLINE static __attribute__((noinline))
/* For the few functions that read memory which a tool believes nobody may read. */
#define SMI_PEEKS __attribute__((no_sanitize("address"), no_sanitize("thread"), noinline))

/* 64-bit counters are atomic also where the ABI aligns uint64_t to 4 (i386). */
typedef uint64_t smi_u64 __attribute__((aligned(8)));

/* Relaxed: counters that one thread writes and others read; no other memory is implied by their value.
 * smi_add is not a read-modify-write: only the one writer may use it. */
#define SMI_LOAD(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define SMI_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define SMI_ADD(p, v) SMI_STORE((p), SMI_LOAD(p) + (v))
#define SMI_SUB(p, v) SMI_STORE((p), SMI_LOAD(p) - (v))
#define SMI_LOAD_ACQUIRE(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define SMI_STORE_RELEASE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define SMI_ATOMIC_ADD(p, v) ((void)__atomic_fetch_add((p), (v), __ATOMIC_RELAXED))
#define SMI_ATOMIC_SUB(p, v) ((void)__atomic_fetch_sub((p), (v), __ATOMIC_RELAXED))
#define SMI_CAS(p, expected, desired)                                                                                              \
    __atomic_compare_exchange_n((p), (expected), (desired), true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

/* A number that no other live thread has; one instruction where the thread pointer is a register. */
SMI_INLINE uintptr_t smi_self(void) {
#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__)
    uintptr_t self;
    __asm__("movq %%fs:0, %0" : "=r"(self));
    return self;
#elif defined(__i386__) && defined(__linux__)
    uintptr_t self;
    __asm__("movl %%gs:0, %0" : "=r"(self));
    return self;
#elif defined(__aarch64__) && !defined(_WIN32)
    return (uintptr_t)__builtin_thread_pointer();
#elif defined(__x86_64__) && defined(_WIN32)
    uintptr_t self;
    __asm__("movq %%gs:0x30, %0" : "=r"(self)); /* NtCurrentTeb() */
    return self;
#elif defined(_WIN32)
    return (uintptr_t)NtCurrentTeb();
#else
    static __thread char me;
    return (uintptr_t)&me;
#endif
}

#ifdef _WIN32
typedef SRWLOCK smi_lock;
#define SMI_LOCK_INIT SRWLOCK_INIT
static void smi_lock_init(smi_lock *lock) { InitializeSRWLock(lock); }
static void smi_lock_take(smi_lock *lock) { AcquireSRWLockExclusive(lock); }
static void smi_lock_give(smi_lock *lock) { ReleaseSRWLockExclusive(lock); }
#else
typedef pthread_mutex_t smi_lock;
#define SMI_LOCK_INIT PTHREAD_MUTEX_INITIALIZER
static void smi_lock_init(smi_lock *lock) { pthread_mutex_init(lock, NULL); }
static void smi_lock_take(smi_lock *lock) { pthread_mutex_lock(lock); }
static void smi_lock_give(smi_lock *lock) { pthread_mutex_unlock(lock); }
#endif

/* What each thread has of its own. */
typedef struct smi_thread {
    sagemem_heap *heap;          /* its default heap, NULL until first used */
    bool reclaiming;             /* inside the reclaim chain: it is not entered again */
    struct smi_budget *paying;   /* whose allocation it is that the library needs structures for */
    uint64_t fail_at, fail_seen; /* sagemem_check_failures: the point that fails (0: not testing), points met */
    sagemem_error error;
} smi_thread;
static __thread smi_thread smi_mine;

/* True when this call is the one that is to fail. */
static bool smi_os_fails(void) {
    if (SMI_LIKELY(smi_mine.fail_at == 0)) return false;
    if (++smi_mine.fail_seen != smi_mine.fail_at) return false;
    errno = ENOMEM;
    return true;
}

/* What the file functions of both systems share. */
enum { SMI_OS_IO_MAX = 1 << 30 }; /* bytes of one read or write: below every system's limit */
typedef enum smi_os_open_mode {
    SMI_OS_READ,
    SMI_OS_UPDATE,  /* read and write a file that is there */
    SMI_OS_WRITE,   /* write; made if it is not there, kept as it is if so */
    SMI_OS_REPLACE, /* write; made or emptied */
    SMI_OS_NEW      /* write; must not be there */
} smi_os_open_mode;
typedef struct smi_os_info {
    uint64_t size, modified_ns, device, inode;
    unsigned permissions;
    bool regular, directory, seekable;
} smi_os_info;

#ifdef _WIN32
static int smi_os_error(void) { return (int)GetLastError(); }

static size_t smi_os_page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

/* Addresses; memory only after smi_os_commit. */
static void *smi_os_reserve(size_t size) { return smi_os_fails() ? NULL : VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_READWRITE); }
static bool smi_os_commit(void *pages, size_t size) {
    return !smi_os_fails() && VirtualAlloc(pages, size, MEM_COMMIT, PAGE_READWRITE) != NULL;
}
static void smi_os_purge(void *pages, size_t size) { VirtualFree(pages, size, MEM_DECOMMIT); }
static void smi_os_release(void *pages, size_t size) {
    (void)size;
    VirtualFree(pages, 0, MEM_RELEASE);
}

/* Committed, zeroed pages at a multiple of alignment. */
static void *smi_os_map(size_t size, size_t alignment) {
    for (int attempt = 0; attempt < 8; attempt++) {
        if (smi_os_fails()) return NULL;
        char *at = (char *)VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        if (at == NULL || ((uintptr_t)at & (alignment - 1)) == 0) return at;
        VirtualFree(at, 0, MEM_RELEASE);
        /* A range cannot be trimmed here: find an address with room to spare, and ask for the aligned one in it. */
        char *wide = (char *)VirtualAlloc(NULL, size + alignment, MEM_RESERVE, PAGE_READWRITE);
        if (wide == NULL) return NULL;
        char *fit = (char *)(((uintptr_t)wide + alignment - 1) & ~(uintptr_t)(alignment - 1));
        VirtualFree(wide, 0, MEM_RELEASE);
        at = (char *)VirtualAlloc(fit, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        if (at != NULL) return at; /* else another thread was faster: once more */
    }
    return NULL;
}

static void *smi_os_remap(void *pages, size_t old_size, size_t new_size) {
    (void)pages, (void)old_size, (void)new_size;
    return NULL;
}

static uint64_t smi_os_now_ns(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    uint64_t ticks = (uint64_t)count.QuadPart, per_second = (uint64_t)frequency.QuadPart;
    return ticks / per_second * 1000000000u + ticks % per_second * 1000000000u / per_second;
}
static uint64_t smi_os_now_ms(void) { return GetTickCount64(); }
static void smi_os_sleep_ms(uint32_t ms) { Sleep(ms); }

static uint64_t smi_os_total_memory(uint64_t *available) {
    MEMORYSTATUSEX status;
    status.dwLength = sizeof status;
    if (!GlobalMemoryStatusEx(&status)) return 0;
    *available = status.ullAvailPhys;
    return status.ullTotalPhys;
}
/* K32GetProcessMemoryInfo's structure, so that psapi.h need not be included. */
typedef struct smi_psapi_counters {
    DWORD size, page_faults;
    SIZE_T peak_resident, resident, rest[6];
} smi_psapi_counters;
static uint64_t smi_os_resident(void) {
    typedef BOOL(WINAPI * info_fn)(HANDLE, smi_psapi_counters *, DWORD);
    smi_psapi_counters counters;
    memset(&counters, 0, sizeof counters);
    counters.size = sizeof counters;
    info_fn get = (info_fn)(void (*)(void))GetProcAddress(GetModuleHandleA("kernel32.dll"), "K32GetProcessMemoryInfo");
    return get != NULL && get(GetCurrentProcess(), &counters, sizeof counters) ? counters.resident : 0;
}
static uint64_t smi_os_address_limit(void) { return UINT64_MAX; }

static DWORD smi_os_exit_slot = FLS_OUT_OF_INDEXES;
static void (*smi_os_exit_fn)(void);
static void WINAPI smi_os_exit_call(void *value) {
    if (value != NULL) smi_os_exit_fn();
}
static void smi_os_at_thread_exit(void (*exit_fn)(void)) {
    smi_os_exit_fn = exit_fn;
    smi_os_exit_slot = FlsAlloc(smi_os_exit_call);
}
static void smi_os_watch_thread(void) { FlsSetValue(smi_os_exit_slot, &smi_mine); }
static void smi_os_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
    (void)before, (void)parent, (void)child;
}

static INIT_ONCE smi_os_once_flag = INIT_ONCE_STATIC_INIT;
static void (*smi_os_once_fn)(void);
static BOOL CALLBACK smi_os_once_call(INIT_ONCE *once, void *parameter, void **context) {
    (void)once, (void)parameter, (void)context;
    smi_os_once_fn();
    return TRUE;
}
static void smi_os_once(void (*init_fn)(void)) {
    smi_os_once_fn = init_fn; /* always the same function */
    InitOnceExecuteOnce(&smi_os_once_flag, smi_os_once_call, NULL, NULL);
}

/* A thread of the library: what it runs must stay where it is until the thread is joined. */
typedef struct smi_os_thread {
    HANDLE handle;
    void (*main_fn)(void *ctx);
    void *ctx;
} smi_os_thread;
static DWORD WINAPI smi_os_thread_main(void *thread) {
    ((smi_os_thread *)thread)->main_fn(((smi_os_thread *)thread)->ctx);
    return 0;
}
static bool smi_os_thread_start(smi_os_thread *thread, void (*main_fn)(void *ctx), void *ctx) {
    thread->main_fn = main_fn;
    thread->ctx = ctx;
    if (smi_os_fails()) return false;
    thread->handle = CreateThread(NULL, 0, smi_os_thread_main, thread, 0, NULL);
    return thread->handle != NULL;
}
static void smi_os_thread_join(smi_os_thread *thread) {
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
}

typedef CONDITION_VARIABLE smi_condition;
SMI_FOR_LAYERS void smi_condition_init(smi_condition *c) { InitializeConditionVariable(c); }
SMI_FOR_LAYERS void smi_condition_deinit(smi_condition *c) { (void)c; }
SMI_FOR_LAYERS void smi_condition_wait(smi_condition *c, smi_lock *lock) { SleepConditionVariableSRW(c, lock, INFINITE, 0); }
SMI_FOR_LAYERS void smi_condition_wake_all(smi_condition *c) { WakeAllConditionVariable(c); }
static uint64_t smi_os_random(void) {
    LARGE_INTEGER count;
    QueryPerformanceCounter(&count);
    return ((uint64_t)count.QuadPart ^ (uint64_t)GetCurrentProcessId() << 32 ^ (uint64_t)(uintptr_t)&count) * 0x9E3779B97F4A7C15u;
}

/* A file made for its pages alone: the system deletes it when it is closed. */
typedef struct smi_os_file {
    HANDLE handle, mapping;
} smi_os_file;
static void *smi_os_file_map(smi_os_file *file, const char *path, size_t size) {
    if (smi_os_fails()) return NULL;
    file->handle = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                               FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    if (file->handle == INVALID_HANDLE_VALUE) return NULL;
    file->mapping = CreateFileMappingA(file->handle, NULL, PAGE_READWRITE, (DWORD)((uint64_t)size >> 32), (DWORD)size, NULL);
    void *at = file->mapping != NULL ? MapViewOfFile(file->mapping, FILE_MAP_WRITE, 0, 0, size) : NULL;
    if (at != NULL) return at;
    if (file->mapping != NULL) CloseHandle(file->mapping);
    CloseHandle(file->handle);
    return NULL;
}
static void smi_os_file_unmap(smi_os_file *file, const char *path, void *at, size_t size) {
    (void)path, (void)size;
    UnmapViewOfFile(at);
    CloseHandle(file->mapping);
    CloseHandle(file->handle);
}
static void smi_os_file_part(smi_os_file *file, void *at, size_t size) { (void)file, (void)at, (void)size; }
static bool smi_os_file_purge(void *pages, size_t size) {
    (void)pages, (void)size;
    return false;
}
static void *smi_os_huge_map(size_t size, size_t page_size) {
    (void)size, (void)page_size; /* needs a privilege that programs do not have */
    return NULL;
}
static void smi_os_huge_advise(void *pages, size_t size) { (void)pages, (void)size; }
static bool smi_os_numa_bind(void *pages, size_t size, int node, sagemem_numa_policy policy) {
    (void)pages, (void)size, (void)node, (void)policy;
    return false;
}

/* -- Files: see the POSIX half for the contracts. -- */
typedef HANDLE smi_os_handle;
static uint32_t smi_os_forks; /* never */
SMI_FOR_LAYERS smi_os_handle smi_os_no_handle(void) { return INVALID_HANDLE_VALUE; }
SMI_FOR_LAYERS bool smi_os_file_fails(void) {
    if (!smi_os_fails()) return false;
    SetLastError(ERROR_IO_DEVICE);
    return true;
}
SMI_FOR_LAYERS const char *smi_os_error_text(int error) {
    static __thread char text[80];
    DWORD n =
        FormatMessageA(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, (DWORD)error, 0, text, sizeof text, NULL);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == '.')) text[--n] = '\0';
    return n > 0 ? text : "unknown error";
}
SMI_FOR_LAYERS bool smi_os_is_missing(int error) { return error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND; }
SMI_FOR_LAYERS bool smi_os_is_memory(int error) { return error == ERROR_NOT_ENOUGH_MEMORY || error == ERROR_OUTOFMEMORY; }
SMI_FOR_LAYERS bool smi_os_open(smi_os_handle *handle, const char *path, smi_os_open_mode how, unsigned permissions) {
    static const DWORD access[] = {GENERIC_READ, GENERIC_READ | GENERIC_WRITE, GENERIC_READ | GENERIC_WRITE,
                                   GENERIC_READ | GENERIC_WRITE, GENERIC_READ | GENERIC_WRITE};
    static const DWORD create[] = {OPEN_EXISTING, OPEN_EXISTING, OPEN_ALWAYS, CREATE_ALWAYS, CREATE_NEW};
    (void)permissions;
    if (smi_os_file_fails()) return false;
    *handle = CreateFileA(path, access[how], FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, create[how],
                          FILE_ATTRIBUTE_NORMAL, NULL);
    return *handle != INVALID_HANDLE_VALUE;
}
SMI_FOR_LAYERS bool smi_os_duplicate(smi_os_handle *handle, int fd) {
    HANDLE given = (HANDLE)_get_osfhandle(fd), self = GetCurrentProcess();
    return !smi_os_file_fails() && given != INVALID_HANDLE_VALUE &&
           DuplicateHandle(self, given, self, handle, 0, FALSE, DUPLICATE_SAME_ACCESS);
}
SMI_FOR_LAYERS bool smi_os_close(smi_os_handle handle) { return CloseHandle(handle) != 0; }
SMI_FOR_LAYERS bool smi_os_info_of(smi_os_handle handle, smi_os_info *info) {
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails()) return false;
    BY_HANDLE_FILE_INFORMATION found;
    if (GetFileType(handle) != FILE_TYPE_DISK) return true;
    if (!GetFileInformationByHandle(handle, &found)) return false;
    info->directory = (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    info->regular = info->seekable = !info->directory;
    info->permissions = 0666;
    info->size = (uint64_t)found.nFileSizeHigh << 32 | found.nFileSizeLow;
    info->modified_ns = ((uint64_t)found.ftLastWriteTime.dwHighDateTime << 32 | found.ftLastWriteTime.dwLowDateTime) * 100u;
    info->device = found.dwVolumeSerialNumber;
    info->inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow;
    return true;
}
static OVERLAPPED smi_os_at(uint64_t offset) {
    OVERLAPPED at;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    return at;
}
SMI_FOR_LAYERS bool smi_os_read_at(smi_os_handle handle, void *to, size_t size, uint64_t offset, size_t *got) {
    DWORD n = 0;
    OVERLAPPED at = smi_os_at(offset);
    *got = 0;
    if (smi_os_file_fails()) return false;
    bool ok =
        ReadFile(handle, to, (DWORD)(size < SMI_OS_IO_MAX ? size : SMI_OS_IO_MAX), &n, &at) || GetLastError() == ERROR_HANDLE_EOF;
    *got = n;
    return ok;
}
SMI_FOR_LAYERS bool smi_os_read(smi_os_handle handle, void *to, size_t size, size_t *got) {
    DWORD n = 0;
    *got = 0;
    if (smi_os_file_fails()) return false;
    bool ok =
        ReadFile(handle, to, (DWORD)(size < SMI_OS_IO_MAX ? size : SMI_OS_IO_MAX), &n, NULL) || GetLastError() == ERROR_BROKEN_PIPE;
    *got = n;
    return ok;
}
SMI_FOR_LAYERS bool smi_os_write_at(smi_os_handle handle, const void *data, size_t size, uint64_t offset, size_t *put) {
    DWORD n = 0;
    OVERLAPPED at = smi_os_at(offset);
    *put = 0;
    bool ok = !smi_os_file_fails() && WriteFile(handle, data, (DWORD)(size < SMI_OS_IO_MAX ? size : SMI_OS_IO_MAX), &n, &at);
    *put = n;
    return ok;
}
SMI_FOR_LAYERS bool smi_os_write(smi_os_handle handle, const void *data, size_t size, size_t *put) {
    DWORD n = 0;
    *put = 0;
    bool ok = !smi_os_file_fails() && WriteFile(handle, data, (DWORD)(size < SMI_OS_IO_MAX ? size : SMI_OS_IO_MAX), &n, NULL);
    *put = n;
    return ok;
}
SMI_FOR_LAYERS bool smi_os_sync(smi_os_handle handle) { return !smi_os_file_fails() && FlushFileBuffers(handle); }
SMI_FOR_LAYERS bool smi_os_sync_directory_of(const char *path) {
    (void)path; /* names are durable with the volume's journal here */
    return !smi_os_file_fails();
}
SMI_FOR_LAYERS bool smi_os_truncate(smi_os_handle handle, uint64_t size) {
    LARGE_INTEGER at;
    at.QuadPart = (LONGLONG)size;
    return !smi_os_file_fails() && SetFilePointerEx(handle, at, NULL, FILE_BEGIN) && SetEndOfFile(handle);
}
SMI_FOR_LAYERS bool smi_os_rename(const char *from, const char *to) {
    return !smi_os_file_fails() && MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING);
}
SMI_FOR_LAYERS void smi_os_unlink(const char *path) { DeleteFileA(path); }
SMI_FOR_LAYERS bool smi_os_real_path(const char *path, char *real, size_t size) {
    DWORD n = GetFullPathNameA(path, (DWORD)size, real, NULL);
    return n > 0 && n < size;
}
SMI_FOR_LAYERS unsigned smi_os_process_id(void) { return (unsigned)GetCurrentProcessId(); }
SMI_FOR_LAYERS bool smi_os_process_lives(unsigned id) {
    HANDLE process = OpenProcess(SYNCHRONIZE, FALSE, id);
    bool lives = process != NULL && WaitForSingleObject(process, 0) == WAIT_TIMEOUT;
    if (process != NULL) CloseHandle(process);
    return lives;
}
SMI_FOR_LAYERS size_t smi_os_map_unit(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwAllocationGranularity;
}
SMI_FOR_LAYERS void *smi_os_map_file(smi_os_handle handle, uint64_t offset, size_t size, sagemem_map_mode mode, bool populate) {
    static const DWORD protect[] = {PAGE_READONLY, PAGE_WRITECOPY, PAGE_READWRITE};
    static const DWORD access[] = {FILE_MAP_READ, FILE_MAP_COPY, FILE_MAP_WRITE};
    (void)populate;
    if (smi_os_file_fails()) return NULL;
    HANDLE mapping = CreateFileMappingA(handle, NULL, protect[mode], 0, 0, NULL);
    if (mapping == NULL) return NULL;
    void *at = MapViewOfFile(mapping, access[mode], (DWORD)(offset >> 32), (DWORD)offset, size);
    CloseHandle(mapping); /* the view keeps it */
    return at;
}
SMI_FOR_LAYERS void smi_os_unmap_file(void *at, size_t size) {
    (void)size;
    UnmapViewOfFile(at);
}
SMI_FOR_LAYERS bool smi_os_flush_map(smi_os_handle handle, void *at, size_t size) {
    return !smi_os_file_fails() && FlushViewOfFile(at, size) && FlushFileBuffers(handle);
}
SMI_FOR_LAYERS void smi_os_advise_access(void *at, size_t size, sagemem_map_access access) { (void)at, (void)size, (void)access; }
SMI_FOR_LAYERS void smi_os_will_need(smi_os_handle handle, void *at, uint64_t offset, size_t size) {
    (void)handle, (void)at, (void)offset, (void)size;
}
SMI_FOR_LAYERS bool smi_os_copy_guarded(void *to, const void *from, size_t size, size_t *done) {
    return ReadProcessMemory(GetCurrentProcess(), from, to, size, (SIZE_T *)done) != 0;
}

#else /* POSIX */

static int smi_os_error(void) { return errno; }

static size_t smi_os_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

static void *smi_os_map_anywhere(size_t size) {
    if (smi_os_fails()) return NULL;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | SMI_MAP_ANONYMOUS | SMI_MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Zeroed pages at a multiple of alignment: more than needed, then both ends cut off. */
static void *smi_os_map(size_t size, size_t alignment) {
    char *at = (char *)smi_os_map_anywhere(size);
    if (at == NULL || ((uintptr_t)at & (alignment - 1)) == 0) return at;
    munmap(at, size);
    if (size + alignment < size) return NULL;
    at = (char *)smi_os_map_anywhere(size + alignment);
    if (at == NULL) return NULL;
    char *fit = (char *)(((uintptr_t)at + alignment - 1) & ~(uintptr_t)(alignment - 1));
    if (fit > at) munmap(at, (size_t)(fit - at));
    if (at + alignment > fit) munmap(fit + size, (size_t)(at + alignment - fit));
    return fit;
}

/* Addresses that cost nothing until they are touched; commit has nothing to do here. */
static void *smi_os_reserve(size_t size) { return smi_os_map(size, 65536); }
static bool smi_os_commit(void *pages, size_t size) {
    (void)pages, (void)size;
    return true;
}
/* The pages read as zero from now on. */
static void smi_os_purge(void *pages, size_t size) {
#ifdef __linux__
    if (madvise(pages, size, MADV_DONTNEED) == 0) return;
    memset(pages, 0, size); /* locked pages cannot go, but the promise holds */
#else
    mmap(pages, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | SMI_MAP_ANONYMOUS | SMI_MAP_NORESERVE, -1, 0);
#endif
}
static void smi_os_release(void *pages, size_t size) { munmap(pages, size); }

/* Grows or shrinks a mapping, moving its page tables instead of its bytes; NULL: it is as before. */
static void *smi_os_remap(void *pages, size_t old_size, size_t new_size) {
#if defined(__linux__) && defined(SYS_mremap)
    if (smi_os_fails()) return NULL;
    long at = syscall(SYS_mremap, pages, old_size, new_size, 1L /* MREMAP_MAYMOVE */, 0L);
    return at == -1 ? NULL : (void *)at;
#else
    (void)pages, (void)old_size, (void)new_size;
    return NULL;
#endif
}

static uint64_t smi_os_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
/* Coarse where the system has such a clock: a few nanoseconds, a few milliseconds of error. */
static uint64_t smi_os_now_ms(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}
static void smi_os_sleep_ms(uint32_t ms) {
    struct timespec t;
    t.tv_sec = (time_t)(ms / 1000u);
    t.tv_nsec = (long)(ms % 1000u) * 1000000L;
    nanosleep(&t, NULL);
}

/* Reads a small file whole, as a string; false if it is not there. No stdio: that would allocate. */
static bool smi_os_read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t got = 0;
    for (;;) {
        ssize_t n = read(fd, text + got, size - 1 - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        got += (size_t)n;
    }
    close(fd);
    text[got] = '\0';
    return got > 0;
}

#ifdef __linux__
/* "MemTotal:   123 kB" of /proc/meminfo, in bytes. */
static uint64_t smi_os_meminfo(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at != NULL ? strtoull(at + strlen(key), NULL, 10) * 1024u : 0;
}
#endif
static uint64_t smi_os_total_memory(uint64_t *available) {
#ifdef __linux__
    char text[4096];
    if (smi_os_read_text("/proc/meminfo", text, sizeof text)) {
        *available = smi_os_meminfo(text, "MemAvailable:");
        return smi_os_meminfo(text, "MemTotal:");
    }
#endif
    long pages = sysconf(_SC_PHYS_PAGES);
    uint64_t total = pages > 0 ? (uint64_t)pages * smi_os_page_size() : 0;
    *available = total;
    return total;
}
static uint64_t smi_os_resident(void) {
#ifdef __linux__
    char text[128];
    if (smi_os_read_text("/proc/self/statm", text, sizeof text)) {
        const char *second = strchr(text, ' ');
        if (second != NULL) return strtoull(second, NULL, 10) * smi_os_page_size();
    }
#endif
    return 0;
}
static uint64_t smi_os_address_limit(void) {
#ifdef RLIMIT_AS
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) return (uint64_t)limit.rlim_cur;
#endif
    return UINT64_MAX;
}

static pthread_key_t smi_os_exit_key;
static void (*smi_os_exit_fn)(void);
static void smi_os_exit_call(void *value) {
    (void)value;
    smi_os_exit_fn();
}
static void smi_os_at_thread_exit(void (*exit_fn)(void)) {
    smi_os_exit_fn = exit_fn;
    pthread_key_create(&smi_os_exit_key, smi_os_exit_call);
}
static void smi_os_watch_thread(void) { pthread_setspecific(smi_os_exit_key, &smi_mine); }
static void smi_os_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
    pthread_atfork(before, parent, child);
}

static pthread_once_t smi_os_once_flag = PTHREAD_ONCE_INIT;
static void smi_os_once(void (*init_fn)(void)) { pthread_once(&smi_os_once_flag, init_fn); }

/* A thread of the library: what it runs must stay where it is until the thread is joined. Signals go to other threads. */
typedef struct smi_os_thread {
    pthread_t handle;
    void (*main_fn)(void *ctx);
    void *ctx;
} smi_os_thread;
static void *smi_os_thread_main(void *thread) {
    ((smi_os_thread *)thread)->main_fn(((smi_os_thread *)thread)->ctx);
    return NULL;
}
static bool smi_os_thread_start(smi_os_thread *thread, void (*main_fn)(void *ctx), void *ctx) {
    thread->main_fn = main_fn;
    thread->ctx = ctx;
    if (smi_os_fails()) return false;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = pthread_create(&thread->handle, NULL, smi_os_thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = reason;
    return reason == 0;
}
static void smi_os_thread_join(smi_os_thread *thread) { pthread_join(thread->handle, NULL); }

typedef pthread_cond_t smi_condition;
SMI_FOR_LAYERS void smi_condition_init(smi_condition *c) { pthread_cond_init(c, NULL); }
SMI_FOR_LAYERS void smi_condition_deinit(smi_condition *c) { pthread_cond_destroy(c); }
SMI_FOR_LAYERS void smi_condition_wait(smi_condition *c, smi_lock *lock) { pthread_cond_wait(c, lock); }
SMI_FOR_LAYERS void smi_condition_wake_all(smi_condition *c) { pthread_cond_broadcast(c); }

static uint64_t smi_os_random(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t mix = (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 30 ^ (uint64_t)getpid() << 48 ^ (uint64_t)(uintptr_t)&now;
    mix = (mix ^ mix >> 31) * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: Knuth, TAOCP 3, 6.4 */
    return mix ^ mix >> 29;
}

/* A file made for its pages alone. */
typedef struct smi_os_file {
    int fd;
} smi_os_file;
static void *smi_os_file_map(smi_os_file *file, const char *path, size_t size) {
    if (smi_os_fails()) return NULL;
    file->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file->fd < 0) return NULL;
    /* Over addresses of our own choice, so that the pages start where the page map wants them. */
    void *place = smi_os_map(size, 65536), *at = MAP_FAILED;
    if (place != NULL && !smi_os_fails() && ftruncate(file->fd, (off_t)size) == 0)
        at = mmap(place, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file->fd, 0);
    if (at != MAP_FAILED) return at;
    int reason = errno;
    if (place != NULL) munmap(place, size);
    close(file->fd);
    unlink(path);
    errno = reason;
    return NULL;
}
static void smi_os_file_unmap(smi_os_file *file, const char *path, void *at, size_t size) {
    munmap(at, size);
    close(file->fd);
    unlink(path);
}
/* In the child of a fork: the same bytes, but what is written from now on is the child's alone. */
static void smi_os_file_part(smi_os_file *file, void *at, size_t size) {
    mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file->fd, 0);
}
/* A hole in the file: the pages read as zero and take no room; false where the file system cannot. */
static bool smi_os_file_purge(void *pages, size_t size) {
#if defined(__linux__) && defined(MADV_REMOVE)
    return madvise(pages, size, MADV_REMOVE) == 0;
#else
    (void)pages, (void)size;
    return false;
#endif
}

/* Pages of that size from the system's pool, or NULL when there are none; page_size 0: the system's default. */
static void *smi_os_huge_map(size_t size, size_t page_size) {
#if defined(__linux__) && defined(MAP_HUGETLB)
    int shift = page_size != 0 ? (int)sizeof(long long) * 8 - 1 - __builtin_clzll((unsigned long long)page_size) : 0;
    if (smi_os_fails()) return NULL;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | SMI_MAP_ANONYMOUS | MAP_HUGETLB | shift << 26, -1, 0);
    return at == MAP_FAILED ? NULL : at; /* 26: MAP_HUGE_SHIFT */
#else
    (void)size, (void)page_size;
    return NULL;
#endif
}
static void smi_os_huge_advise(void *pages, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    (void)madvise(pages, size, MADV_HUGEPAGE); /* a wish: ordinary pages do as well */
#else
    (void)pages, (void)size;
#endif
}
static bool smi_os_numa_bind(void *pages, size_t size, int node, sagemem_numa_policy policy) {
#if defined(__linux__) && defined(SYS_mbind)
    static const unsigned long modes[] = {1 /* MPOL_PREFERRED */, 2 /* MPOL_BIND */, 3 /* MPOL_INTERLEAVE */};
    enum { SMI_WORD_BITS = 8 * (int)sizeof(unsigned long), SMI_NODE_WORDS = 1024 / SMI_WORD_BITS };
    unsigned long mask[SMI_NODE_WORDS];
    memset(mask, policy == SAGEMEM_NUMA_INTERLEAVE ? 0xFF : 0, sizeof mask);
    if (policy != SAGEMEM_NUMA_INTERLEAVE) mask[node / SMI_WORD_BITS] = 1ul << (node % SMI_WORD_BITS);
    return syscall(SYS_mbind, pages, size, modes[policy], mask, 1025L, 0L) == 0;
#else
    (void)pages, (void)size, (void)node, (void)policy;
    return false;
#endif
}

/* -- Files. A handle is the library's own: what the caller gave is duplicated. A call is one system call, repeated where a
 *    signal interrupted it, and moves at most SMI_OS_IO_MAX bytes; false: smi_os_error() says why. Positions are absolute. */
typedef int smi_os_handle;
static uint32_t
    smi_os_forks; /* how many forks lie between this process and the first: what an object opened before is the parent's */
SMI_FOR_LAYERS smi_os_handle smi_os_no_handle(void) { return -1; }
SMI_FOR_LAYERS bool smi_os_file_fails(void) {
    if (!smi_os_fails()) return false;
    errno = EIO;
    return true;
}
SMI_FOR_LAYERS const char *smi_os_error_text(int error) { return strerror(error); }
SMI_FOR_LAYERS bool smi_os_is_missing(int error) { return error == ENOENT || error == ENOTDIR; }
SMI_FOR_LAYERS bool smi_os_is_memory(int error) { return error == ENOMEM; }
SMI_FOR_LAYERS bool smi_os_open(smi_os_handle *handle, const char *path, smi_os_open_mode how, unsigned permissions) {
    static const int flags[] = {O_RDONLY, O_RDWR, O_WRONLY | O_CREAT, O_WRONLY | O_CREAT | O_TRUNC, O_WRONLY | O_CREAT | O_EXCL};
    if (smi_os_file_fails()) return false;
    do *handle = open(path, flags[how] | O_CLOEXEC, (mode_t)permissions);
    while (*handle < 0 && errno == EINTR);
    return *handle >= 0;
}
SMI_FOR_LAYERS bool smi_os_duplicate(smi_os_handle *handle, int fd) {
    if (smi_os_file_fails()) return false;
    *handle = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return *handle >= 0;
}
/* False: what was written may not have arrived (some network file systems). The handle is gone in any case. */
SMI_FOR_LAYERS bool smi_os_close(smi_os_handle handle) { return close(handle) == 0 || errno == EINTR; }
SMI_FOR_LAYERS bool smi_os_info_of(smi_os_handle handle, smi_os_info *info) {
    struct stat found;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails() || fstat(handle, &found) != 0) return false;
    info->regular = S_ISREG(found.st_mode);
    info->directory = S_ISDIR(found.st_mode);
    info->seekable = lseek(handle, 0, SEEK_CUR) >= 0;
    info->permissions = (unsigned)found.st_mode & 07777u;
    info->size = (uint64_t)found.st_size;
#ifdef __APPLE__
    info->modified_ns = (uint64_t)found.st_mtimespec.tv_sec * 1000000000u + (uint64_t)found.st_mtimespec.tv_nsec;
#else
    info->modified_ns = (uint64_t)found.st_mtim.tv_sec * 1000000000u + (uint64_t)found.st_mtim.tv_nsec;
#endif
    info->device = (uint64_t)found.st_dev;
    info->inode = (uint64_t)found.st_ino;
    return true;
}
/* On 32-bit systems without _FILE_OFFSET_BITS 64 files end at 2 GiB. */
static bool smi_os_offset(uint64_t offset, size_t size, off_t *out) {
    *out = (off_t)offset;
    if (*out >= 0 && (uint64_t)*out == offset && offset + size >= offset && (off_t)(offset + size) >= 0) return true;
    errno = EOVERFLOW;
    return false;
}
/* *got is 0 at the end of the file. */
SMI_FOR_LAYERS bool smi_os_read_at(smi_os_handle handle, void *to, size_t size, uint64_t offset, size_t *got) {
    *got = 0;
    off_t at;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails() || !smi_os_offset(offset, size, &at)) return false;
    ssize_t n;
    do n = pread(handle, to, size, at);
    while (n < 0 && errno == EINTR);
    if (n > 0) *got = (size_t)n;
    return n >= 0;
}
SMI_FOR_LAYERS bool smi_os_read(smi_os_handle handle, void *to, size_t size, size_t *got) {
    *got = 0;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails()) return false;
    ssize_t n;
    do n = read(handle, to, size);
    while (n < 0 && errno == EINTR);
    if (n > 0) *got = (size_t)n;
    return n >= 0;
}
/* *put may be less than size: the caller goes on behind it, and meets the reason. */
SMI_FOR_LAYERS bool smi_os_write_at(smi_os_handle handle, const void *data, size_t size, uint64_t offset, size_t *put) {
    *put = 0;
    off_t at;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails() || !smi_os_offset(offset, size, &at)) return false;
    ssize_t n;
    do n = pwrite(handle, data, size, at);
    while (n < 0 && errno == EINTR);
    if (n > 0) *put = (size_t)n;
    return n >= 0;
}
SMI_FOR_LAYERS bool smi_os_write(smi_os_handle handle, const void *data, size_t size, size_t *put) {
    *put = 0;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails()) return false;
    ssize_t n;
    do n = write(handle, data, size);
    while (n < 0 && errno == EINTR);
    if (n > 0) *put = (size_t)n;
    return n >= 0;
}
SMI_FOR_LAYERS bool smi_os_sync(smi_os_handle handle) {
    if (smi_os_file_fails()) return false;
#ifdef __APPLE__
    if (fcntl(handle, F_FULLFSYNC) == 0) return true; /* fsync stops at the drive's cache there */
#endif
    int failed;
    do failed = fsync(handle);
    while (failed != 0 && errno == EINTR);
    return failed == 0;
}
/* After a rename: the directory that `path` is in. */
SMI_FOR_LAYERS bool smi_os_sync_directory_of(const char *path) {
    char directory[4096];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (length >= sizeof directory) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(directory, path, length);
    if (length == 0) directory[length++] = '.';
    directory[length] = '\0';
    smi_os_handle handle;
    if (!smi_os_open(&handle, directory, SMI_OS_READ, 0)) return false;
    bool ok = smi_os_sync(handle);
    int reason = errno;
    close(handle);
    errno = reason;
    return ok;
}
SMI_FOR_LAYERS bool smi_os_truncate(smi_os_handle handle, uint64_t size) {
    off_t at;
    if (smi_os_file_fails() || !smi_os_offset(size, 0, &at)) return false;
    int failed;
    do failed = ftruncate(handle, at);
    while (failed != 0 && errno == EINTR);
    return failed == 0;
}
SMI_FOR_LAYERS bool smi_os_rename(const char *from, const char *to) { return !smi_os_file_fails() && rename(from, to) == 0; }
SMI_FOR_LAYERS void smi_os_unlink(const char *path) { unlink(path); }
/* The path without symbolic links, of a file that is there. */
SMI_FOR_LAYERS bool smi_os_real_path(const char *path, char *real, size_t size) {
    char *found = realpath(path, NULL);
    bool fits = found != NULL && strlen(found) < size;
    if (fits) memcpy(real, found, strlen(found) + 1);
    else if (found != NULL) errno = ENAMETOOLONG;
    free(found);
    return fits;
}
SMI_FOR_LAYERS unsigned smi_os_process_id(void) { return (unsigned)getpid(); }
SMI_FOR_LAYERS bool smi_os_process_lives(unsigned id) { return kill((pid_t)id, 0) == 0 || errno != ESRCH; }

/* What the offset of a mapping must be a multiple of. */
SMI_FOR_LAYERS size_t smi_os_map_unit(void) { return smi_os_page_size(); }
SMI_FOR_LAYERS void *smi_os_map_file(smi_os_handle handle, uint64_t offset, size_t size, sagemem_map_mode mode, bool populate) {
    off_t from;
    if (smi_os_file_fails() || !smi_os_offset(offset, size, &from)) return NULL;
    int flags = mode == SAGEMEM_MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED;
#ifdef MAP_POPULATE
    if (populate) flags |= MAP_POPULATE;
#endif
    (void)populate;
    void *at = mmap(NULL, size, mode == SAGEMEM_MAP_READ ? PROT_READ : PROT_READ | PROT_WRITE, flags, handle, from);
    return at == MAP_FAILED ? NULL : at;
}
SMI_FOR_LAYERS void smi_os_unmap_file(void *at, size_t size) { munmap(at, size); }
SMI_FOR_LAYERS bool smi_os_flush_map(smi_os_handle handle, void *at, size_t size) {
    (void)handle;
    return !smi_os_file_fails() && msync(at, size, MS_SYNC) == 0;
}
SMI_FOR_LAYERS void smi_os_advise_access(void *at, size_t size, sagemem_map_access access) {
#ifdef MADV_RANDOM
    static const int advice[] = {MADV_NORMAL, MADV_SEQUENTIAL, MADV_RANDOM};
    (void)madvise(at, size, advice[access]); /* a wish */
#else
    (void)at, (void)size, (void)access;
#endif
}
/* Reading ahead, which does not wait; `at` is where the bytes are mapped, page-aligned, or NULL. */
SMI_FOR_LAYERS void smi_os_will_need(smi_os_handle handle, void *at, uint64_t offset, size_t size) {
    (void)handle, (void)at, (void)offset, (void)size;
#ifdef POSIX_FADV_WILLNEED
    off_t from;
    if (smi_os_offset(offset, size, &from) && posix_fadvise(handle, from, (off_t)size, POSIX_FADV_WILLNEED) == 0) return;
#endif
#ifdef MADV_WILLNEED
    if (at != NULL) (void)madvise(at, size, MADV_WILLNEED);
#endif
}
/* Copies out of a mapping whose file may be cut short meanwhile: no signal, but less than size. The kernel does the copy
 * and stops at what cannot be read. False: not possible here. */
SMI_FOR_LAYERS bool smi_os_copy_guarded(void *to, const void *from, size_t size, size_t *done) {
    *done = 0;
#if defined(__linux__) && defined(SYS_process_vm_readv)
    while (*done < size) {
        struct smi_os_iovec {
            void *base;
            size_t size;
        } here = {(char *)to + *done, size - *done}, there = {(char *)(uintptr_t)from + *done, size - *done};
        long n = syscall(SYS_process_vm_readv, (long)getpid(), &here, 1L, &there, 1L, 0L);
        if (n < 0 && errno != EFAULT) return false;
        if (n <= 0) break;
        *done += (size_t)n;
    }
    return true;
#else
    (void)to, (void)from, (void)size;
    return false;
#endif
}
#endif /* POSIX */

/* What Valgrind and AddressSanitizer are told. `watched` heaps take no path that bypasses these. */
#ifdef SMI_VALGRIND
static bool smi_on_valgrind;
static void smi_quiet_begin(void) {
    if (smi_on_valgrind) VALGRIND_DISABLE_ERROR_REPORTING;
}
static void smi_quiet_end(void) {
    if (smi_on_valgrind) VALGRIND_ENABLE_ERROR_REPORTING;
}
/* What was computed from bytes that the program may not have written yet. */
static void smi_quiet_known(void *result, size_t size) {
    if (smi_on_valgrind) (void)VALGRIND_MAKE_MEM_DEFINED(result, size);
}
#else
static void smi_quiet_known(void *result, size_t size) { (void)result, (void)size; }
static void smi_quiet_begin(void) {}
static void smi_quiet_end(void) {}
#endif

static bool smi_os_watched(void) {
#ifdef SMI_VALGRIND
    smi_on_valgrind = RUNNING_ON_VALGRIND != 0;
    if (smi_on_valgrind) return true;
#endif
#ifdef SMI_ASAN
    return true;
#else
    return false;
#endif
}

/* Nobody but the library may touch these bytes. */
static void smi_watch_shut(const void *at, size_t size) {
#ifdef SMI_ASAN
    __asan_poison_memory_region((void const volatile *)at, size);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) (void)VALGRIND_MAKE_MEM_NOACCESS(at, size);
#endif
    (void)at, (void)size;
}
/* These bytes are ordinary memory again, before they go back to the system or to their owner. */
static void smi_watch_open(const void *at, size_t size) {
#ifdef SMI_ASAN
    __asan_unpoison_memory_region((void const volatile *)at, size);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) (void)VALGRIND_MAKE_MEM_DEFINED(at, size);
#endif
    (void)at, (void)size;
}
/* Part of a block of the library's is the program's now, its contents undefined. */
SMI_FOR_LAYERS void smi_watch_fresh(const void *at, size_t size) {
#ifdef SMI_ASAN
    __asan_unpoison_memory_region((void const volatile *)at, size);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) (void)VALGRIND_MAKE_MEM_UNDEFINED(at, size);
#endif
    (void)at, (void)size;
}
static void smi_watch_alloc(const void *block, size_t size, bool zeroed) {
#ifdef SMI_ASAN
    __asan_unpoison_memory_region((void const volatile *)block, size);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) VALGRIND_MALLOCLIKE_BLOCK(block, size, 0, zeroed);
#endif
    (void)block, (void)size, (void)zeroed;
}
static void smi_watch_free(const void *block, size_t size) {
#ifdef SMI_ASAN
    __asan_poison_memory_region((void const volatile *)block, size);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) VALGRIND_FREELIKE_BLOCK(block, 0);
#endif
    (void)block, (void)size;
}

/* ==========================================================================
 * >>log  Status names, the last error, the logger and the fault handler.
 *        Nothing here allocates: a failure must be able to speak.
 * ========================================================================== */

/* Locks of the whole process, in the order in which they may be taken: registry, then a shared heap's
 * use lock, then one heap's lock, then stats, system, span, names, meta; a child heap's lock before its parent's. */
static smi_lock smi_registry_lock = SMI_LOCK_INIT; /* heaps, tags, reclaimers, settings of the process */
static smi_lock smi_stats_lock = SMI_LOCK_INIT;    /* what was published for peaks */
static smi_lock smi_system_lock = SMI_LOCK_INIT;   /* blocks of SAGEMEM_HEAP_SYSTEM */
static smi_lock smi_span_lock = SMI_LOCK_INIT;     /* regions, page map, obituaries */
static smi_lock smi_names_lock = SMI_LOCK_INIT;    /* names */
static smi_lock smi_meta_lock = SMI_LOCK_INIT;     /* the library's own structures */

static void (*smi_log_fn)(void *ctx, sagemem_log_level level, const char *message);
static void *smi_log_ctx;
static void (*smi_fault_fn)(void *ctx, sagemem_fault_kind kind, const sagemem_error *error);
static void *smi_fault_ctx;

SAGEMEM_PRINTF(2, 3)
static void smi_log(sagemem_log_level level, const char *format, ...) {
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (smi_log_fn != NULL) smi_log_fn(smi_log_ctx, level, message);
    else if (level >= SAGEMEM_LOG_WARNING) fprintf(stderr, "sagemem: %s\n", message);
}

static void smi_set_error(sagemem_status status, int os_error, const char *call, const char *format, va_list args) {
    sagemem_error *error = &smi_mine.error;
    error->status = status;
    error->os_error = os_error;
    error->call = call;
    vsnprintf(error->message, sizeof error->message, format, args);
}

/* snprintf, where a text that is cut at the end still says what it should. */
SAGEMEM_PRINTF(3, 4)
SMI_NOINLINE void smi_text(char *text, size_t size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(text, size, format, args);
    va_end(args);
}

/* Notes an ordinary failure of the calling thread and returns its status. */
SAGEMEM_PRINTF(4, 5)
static sagemem_status smi_fail(sagemem_status status, int os_error, const char *call, const char *format, ...) {
    va_list args;
    va_start(args, format);
    smi_set_error(status, os_error, call, format, args);
    va_end(args);
    return status;
}

/* Misuse or corruption: the handler decides whether the program goes on. */
SAGEMEM_PRINTF(4, 5)
SMI_NOINLINE sagemem_status smi_fault(sagemem_fault_kind kind, sagemem_status status, const char *call, const char *format, ...) {
    va_list args;
    va_start(args, format);
    smi_set_error(status, 0, call, format, args);
    va_end(args);
    sagemem_error copy = smi_mine.error; /* the handler may call the library */
    if (smi_fault_fn != NULL) {
        smi_fault_fn(smi_fault_ctx, kind, &copy);
        smi_mine.error = copy;
        return status;
    }
    smi_log(SAGEMEM_LOG_ERROR, "%s: %s: %s", kind == SAGEMEM_MISUSE ? "misuse" : "corruption", call, copy.message);
    abort();
}

SAGEMEM_API const char *sagemem_status_name(sagemem_status status) {
    static const char *const names[] = {
        "SAGEMEM_OK",       "SAGEMEM_E_ARGUMENT",    "SAGEMEM_E_NOMEM",     "SAGEMEM_E_LIMIT",
        "SAGEMEM_E_IO",     "SAGEMEM_E_FULL",        "SAGEMEM_E_EMPTY",     "SAGEMEM_E_TIMEOUT",
        "SAGEMEM_E_STALE",  "SAGEMEM_E_CORRUPT",     "SAGEMEM_E_FOREIGN",   "SAGEMEM_E_BUSY",
        "SAGEMEM_E_CLOSED", "SAGEMEM_E_UNSUPPORTED", "SAGEMEM_E_NOT_FOUND", "SAGEMEM_E_TOO_BIG",
    };
    return (size_t)status < sizeof names / sizeof names[0] ? names[status] : "SAGEMEM_E_UNKNOWN";
}

SAGEMEM_API const sagemem_error *sagemem_last_error(void) {
    if (smi_mine.error.call == NULL) smi_mine.error.call = "";
    return &smi_mine.error;
}

SAGEMEM_API void sagemem_set_logger(void (*log_fn)(void *ctx, sagemem_log_level level, const char *message), void *ctx) {
    smi_log_fn = log_fn;
    smi_log_ctx = ctx;
}

SAGEMEM_API void sagemem_set_fault_handler(void (*fault_fn)(void *ctx, sagemem_fault_kind kind, const sagemem_error *error),
                                           void *ctx) {
    smi_fault_fn = fault_fn;
    smi_fault_ctx = ctx;
}

#ifndef SAGEMEM_STATIC
SAGEMEM_API const char *sagemem_version_0_1(void) { return SAGEMEM_VERSION; }
#endif

/* ==========================================================================
 * Structures. Everything that describes memory lies apart from the memory it
 * describes, so that an overflow cannot reach it; the exceptions are the word
 * in front of a block in a chunk and the links inside free blocks.
 *
 *   process -- heap -- scope -- scope        each a struct sagemem_heap ("domain")
 *               |  \
 *               |   `- pages: slab | chunk | huge, each a struct smi_page
 *               `- heap (child)
 *
 *   page map:  address / 16 KiB  ->  smi_page, for every page of every heap
 * ========================================================================== */

enum {
    SMI_GRANULE = 16384, /* unit of pages and of the page map: the smallest slab page, the page size of Apple's arm64 */
    SMI_GRANULE_SHIFT = 14,
    SMI_LEAF_SHIFT = 17,  /* entries in a leaf of the page map: 1 MiB of addresses for 2 GiB */
    SMI_SMALL_MAX = 8192, /* largest block of a slab page */
    SMI_EXACT_MAX = 1024, /* classes are multiples of 16 up to here, then 32 to a doubling (3 % apart) */
    SMI_CLASSES = 161,
    SMI_SLAB_MAX = 65536,          /* largest slab page */
    SMI_CHUNK_MAX = 1 << 20,       /* largest chunk, unless a source's pages are larger; */
    SMI_CHUNK_END = 1 << 24,       /* of those not more is used: units have 20 bits */
    SMI_CHUNK_BLOCK_MAX = 1 << 18, /* blocks above have pages of their own */
    SMI_LISTS = 124,               /* free lists of a chunk domain, see smi_list_of */
    SMI_SPAN_MAX = 1 << 24,        /* spans above are mappings of their own, grown with mremap */
    SMI_KEEP_MAX = 1 << 20,        /* bytes of empty pages a heap keeps, and of spare chunks */
    SMI_TAGS = SAGEMEM_TAG_MAX + 1,
    SMI_GROUP = 16, /* records are made for this many neighbouring tags at once */
    SMI_GROUPS = SMI_TAGS / SMI_GROUP,
    SMI_RARE = 1024,         /* counters that decide when a (tag, class) gets slab pages */
    SMI_RARE_PERIOD = 32768, /* allocations after which what was recent counts half */
    SMI_NAME_MAX = 64,
    SMI_RECLAIMERS = 64
};

typedef enum smi_kind { SMI_META, SMI_SLAB, SMI_CHUNK, SMI_HUGE, SMI_SPARE, SMI_DEAD } smi_kind;
typedef enum smi_origin { SMI_FROM_REGION, SMI_FROM_SYSTEM, SMI_FROM_SOURCE } smi_origin;

/* A free block of a slab page: proof = next ^ address ^ key. Writing over either word breaks the proof, and a
 * block that carries a proof is not handed out: double frees and late writes are seen without a walk. */
typedef struct smi_cell {
    struct smi_cell *next;
    uintptr_t proof;
} smi_cell;

typedef enum smi_slab_state { SMI_SLAB_CURRENT, SMI_SLAB_FULL, SMI_SLAB_QUEUED, SMI_SLAB_EMPTY } smi_slab_state;

/* One page. The first line of 64 bytes is what alloc and free of a slab block touch. */
typedef struct smi_page {
    uintptr_t owner;      /* thread that may take the short paths; 0: nobody (other kinds, watched, shared, ended) */
    smi_cell *cells;      /* slab: free blocks */
    uintptr_t key;        /* slab: see smi_cell */
    char *start;          /* slab: first block; chunk: first byte; huge: the block */
    uint64_t inverse;     /* slab: 2^64 / block_size, rounded up: offset * inverse < inverse iff it is a multiple (Lemire 2019) */
    uint32_t limit;       /* slab: bytes of blocks handed out or threaded so far */
    uint32_t total;       /* slab: blocks ever handed out, less `folded` */
    uint32_t freed;       /* slab: of these, given back by the owner; total - freed - remote count are in use */
    uint32_t trigger;     /* slab: when `freed` gets here, smi_slab_event decides what becomes of the page */
    uint32_t block_size;  /* slab */
    uint16_t capacity;    /* slab: blocks */
    uint16_t class_index; /* slab */
    /* second line: other threads write here */
    uint32_t remote;     /* slab: freed by other threads: count << 16 | index of the first + 1 */
    uint32_t huge_state; /* huge: 0 live, 1 freed by another thread */
    struct sagemem_heap *domain;
    struct smi_page *next, *prev;               /* slab: the class's queue (circular); dead: list */
    struct smi_page *domain_next, *domain_prev; /* all pages of a domain; slab pages: of its tag's record */
    struct smi_page *remote_next;               /* slab: in the heap's list of pages with remote frees */
    char *base;                                 /* the span */
    size_t bytes;                               /* its size */
    char *top;                                  /* chunk: end of the formatted part */
    smi_u64 folded;                             /* slab: blocks handed out before `total` was last reset */
    size_t size;                                /* huge: usable bytes */
    const char *file;                           /* huge: site; dead, spare: kind of the scope */
    uint64_t id;                                /* dead, spare: id of the scope */
    int line;
    uint32_t references; /* dead: page map entries */
    sagemem_tag tag;
    uint8_t kind, origin, state;
    bool on_huge_pages;
    const char *name; /* dead: the heap's, interned */
} smi_page;

/* How much a (tag, class) is used before it has slab pages. */
typedef struct smi_rare {
    uint16_t live, recent; /* blocks now; allocations, halved now and then */
} smi_rare;

/* Slab pages of one tag in one heap. */
typedef struct smi_bins {
    smi_page *current[SMI_CLASSES]; /* never NULL: smi_no_page stands for none */
    smi_page *queue[SMI_CLASSES];   /* pages with free blocks, oldest first; circular */
    uint32_t pages[SMI_CLASSES];
} smi_bins;

/* What one tag has in one domain. The first four count blocks that have a header (chunk, huge, system) and all
 * that slab pages counted before they went; they only grow, and a reader takes the frees first: never negative. */
typedef struct smi_record {
    smi_u64 free_bytes, free_blocks;
    smi_u64 remote_bytes, remote_blocks; /* freed by other threads, not yet collected by the owner */
    smi_u64 alloc_bytes, alloc_blocks;
    smi_u64 gone_bytes, gone_blocks; /* allocated in child heaps that have ended; nothing of it is in use */
    smi_page *slabs;
    /* Peaks: of the four above where the domain is exact, else of what was last seen and published. */
    smi_u64 seen_bytes, seen_blocks; /* the domain's own */
    smi_u64 kids_bytes, kids_blocks; /* published by child heaps */
    smi_u64 peak, peak_blocks;
    smi_u64 at_peak; /* bytes at the domain's peak, once they have changed since: then epoch is the domain's */
    smi_u64 epoch;
} smi_record;
typedef struct smi_group {
    smi_record record[SMI_GROUP];
} smi_group;

/* held <= limit at every moment. reserved is part of held. */
typedef struct smi_budget {
    struct smi_budget *up;
    smi_u64 held, peak, limit, reserved;
} smi_budget;

struct smi_object_kind;
/* What a layer made from a heap: see smi_object_create. First member of its structure. */
typedef struct smi_object {
    struct smi_object *older, *newer; /* of the same domain */
    const struct smi_object_kind *kind;
    struct sagemem_heap *domain; /* the scope or heap that it belongs to, takes from and ends with; smi_process: it has ended */
    const char *name;            /* in messages and reports; interned, or NULL */
} smi_object;

typedef struct smi_free_block smi_free_block; /* chunk: links in a free block */

struct sagemem_heap {
    uintptr_t quick;          /* heap: the owner where the short paths of slab pages are open now, else 0; see smi_heap_quick */
    uintptr_t quick_bump;     /* scope: the owner where its short paths are open, else 0 */
    uintptr_t owner;          /* thread; 0: none; SMI_ANY: shared */
    uintptr_t magic;          /* tells a heap from anything else: SMI_MAGIC ^ address, or SMI_ENDED ^ address */
    struct sagemem_heap *top; /* innermost open scope, or itself */
    smi_bins **bins;          /* by tag; NULL entries do not exist: smi_no_bins */
    uint32_t bins_count;
    bool fast;                /* slab pages, short paths */
    bool slab;                /* slab pages */
    bool bump;                /* scope: freed small blocks stay apart, for the exact size */
    bool exact;               /* peaks are kept with every block */
    char *bump_at, *bump_end; /* chunk domain: room at the end of `chunk` */
    smi_page *chunk;
    uint64_t salt;                 /* of this domain's block headers */
    uint32_t pending;              /* other threads have left something below, or want a trim: see smi_collect */
    struct smi_page *remote_pages; /* slab pages with blocks freed by others */
    void *remote_blocks;           /* headered blocks freed by others, linked through their first word */
    smi_u64 sum, peak, epoch;      /* bytes in use, now if exact, else as last seen; most at once; number of that peak */
    smi_u64 seen;                  /* not exact: what the peaks below add up to at the last look */
    uint64_t exact_seen;           /* of sum: what the open scope, or all of an exact heap, had when it was last seen */
    uint64_t peak_shown;           /* exact heap: the peak that those above have seen */
    uint64_t told;                 /* scope: its peak when the heap outside of it last grew */
    struct sagemem_heap *chain;    /* the domain that counts this one's blocks too, with every block; or NULL */
    smi_lock lock;                 /* lists of pages, records and scopes, against readers */
    smi_lock use_lock;             /* shared: one thread at a time, */
    uintptr_t user;                /* this one, */
    uint32_t uses;                 /* so many calls deep: clean-ups and visitors may use the heap */
    /* identity */
    struct sagemem_heap *base;          /* the heap; itself unless a scope */
    struct sagemem_heap *outer, *inner; /* enclosing and enclosed domain */
    struct sagemem_heap *left;          /* outermost scopes that a dead thread left open, linked by sibling_next */
    struct sagemem_heap *parent, *children, *sibling_next, *sibling_prev;
    const char *name; /* heap: its name; scope: its kind */
    uint64_t id;
    uint32_t flags, purge_delay_ms;
    uint32_t pre, post; /* bytes in front of a block's header, and behind the block */
    bool is_default, has_source, frozen, trim_wanted, ending, orphan;
    sagemem_source source;
    smi_budget budget;
    /* memory */
    uint64_t list_map[2];
    smi_free_block *lists[SMI_LISTS];
    smi_page *pages;  /* chunk and huge pages; slab pages hang on their records */
    smi_page *spares; /* chunks of ended scopes */
    size_t spare_bytes, empty_bytes, chunk_bytes, slab_bytes;
    smi_u64 header_bytes; /* in front of and behind blocks, where it is not the one word of a chunk: see smi_headers */
    smi_u64 huge_page_bytes;
    uint32_t page_count, events;
    size_t event_bytes; /* since the last look: in pages that changed hands, in blocks that filled holes of chunks */
    smi_u64 scopes;     /* open */
    uint64_t scopes_begun;
    struct sagemem_heap *ended, *unused; /* heap: the scope that ended last; scope structures to reuse */
    uint64_t began_ns, duration_ns;
    smi_object *objects; /* newest first */
    smi_u64 mapped;      /* heap: bytes of mapped files */
    void *quarantine_first, *quarantine_last;
    size_t quarantine_bytes;
    void *system_blocks;
    uint32_t visits;       /* of these, under way */
    struct smi_rare *rare; /* slab heap: which (tag, class) should have slab pages */
    uint32_t rare_total;
    struct smi_hand *hands; /* see sagemem_allocator_for */
    uint32_t groups_end;
    smi_group *group[SMI_GROUPS]; /* last: it outlives the reuse of a scope's structure */
};
typedef struct sagemem_heap smi_domain;

static const uintptr_t SMI_ANY = 1;
static const uintptr_t SMI_MAGIC = (uintptr_t)0x5A6E3E3D9C1B7F25u, SMI_ENDED = (uintptr_t)0x1D0E2A77C35B9E61u;

static smi_domain smi_process; /* totals, limit and children: the heaps without a parent */
static bool smi_watched;       /* Valgrind or AddressSanitizer looks on */
static uint64_t smi_secret;
static size_t smi_os_page;

/* ==========================================================================
 * >>budget  The tree of limits: scope -> heap -> parent heap -> process.
 * ========================================================================== */

/* Takes at most n from the reserve; what it gives is already part of held, here and above. */
static uint64_t smi_budget_draw(smi_budget *b, uint64_t n) {
    smi_u64 reserved = SMI_LOAD(&b->reserved);
    uint64_t take;
    do take = reserved < n ? reserved : n;
    while (take != 0 && !SMI_CAS(&b->reserved, &reserved, reserved - take));
    return take;
}

static bool smi_budget_add(smi_budget *b, uint64_t n) {
    smi_u64 held = SMI_LOAD(&b->held);
    do {
        uint64_t limit = SMI_LOAD(&b->limit);
        if (held + n < held || (limit != 0 && held + n > limit)) return false;
    } while (!SMI_CAS(&b->held, &held, held + n));
    return true;
}

/* Notes new peaks, once what was charged has been obtained. */
static void smi_budget_peak(smi_budget *b) {
    for (; b != NULL; b = b->up) {
        uint64_t held = SMI_LOAD(&b->held);
        smi_u64 peak = SMI_LOAD(&b->peak);
        while (peak < held && !SMI_CAS(&b->peak, &peak, held)) {
        }
    }
}

/* What a charge did, so that it can be taken back to the last reserved byte. */
enum { SMI_DRAWS = 4 }; /* levels whose reserve one charge may draw on */
typedef struct smi_claim {
    smi_budget *first, *met; /* where it was made; whose limit would have been exceeded */
    uint64_t bytes, cached;
    int count;
    struct {
        smi_budget *from;
        uint64_t bytes;
    } drawn[SMI_DRAWS];
} smi_claim;

/* Takes a claim back, up to but not including `stop`. */
static void smi_claim_undo(const smi_claim *c, const smi_budget *stop) {
    uint64_t n = c->bytes;
    int i = 0;
    for (smi_budget *b = c->first; b != stop && (n > 0 || c->cached > 0); b = b->up) {
        if (b->up == NULL && c->cached >= n) {
            SMI_ATOMIC_ADD(&b->held, c->cached - n);
            return;
        }
        if (b->up == NULL) n -= c->cached;
        uint64_t drawn = i < c->count && c->drawn[i].from == b ? c->drawn[i++].bytes : 0;
        SMI_ATOMIC_SUB(&b->held, n - drawn);
        SMI_ATOMIC_ADD(&b->reserved, drawn);
        n -= drawn;
    }
}

/* Charges n bytes here and everywhere above, or nowhere. `cached` of them are counted in the process already: they
 * come out of its cache of free pages. */
static bool smi_charge(smi_budget *first, uint64_t n, uint64_t cached, smi_claim *c) {
    c->first = first;
    c->met = NULL;
    c->bytes = n;
    c->cached = cached;
    c->count = 0;
    for (smi_budget *b = first; b != NULL && (n > 0 || cached > 0); b = b->up) {
        if (b->up == NULL && cached >= n) {
            SMI_ATOMIC_SUB(&b->held, cached - n);
            return true;
        }
        if (b->up == NULL) n -= cached;
        uint64_t drawn = c->count < SMI_DRAWS ? smi_budget_draw(b, n) : 0;
        if (n > drawn && !smi_budget_add(b, n - drawn)) {
            SMI_ATOMIC_ADD(&b->reserved, drawn);
            smi_claim_undo(c, b);
            c->met = b;
            return false;
        }
        if (drawn > 0) {
            c->drawn[c->count].from = b;
            c->drawn[c->count++].bytes = drawn;
        }
        n -= drawn;
    }
    return true;
}

/* What was charged is given back, but what it drew on stays reserved. */
static void smi_claim_reserve(const smi_claim *c) {
    for (int i = 0; i < c->count; i++) {
        SMI_ATOMIC_ADD(&c->drawn[i].from->reserved, c->drawn[i].bytes);
        for (smi_budget *b = c->drawn[i].from; b != NULL; b = b->up) SMI_ATOMIC_ADD(&b->held, c->drawn[i].bytes);
    }
}

/* Gives n bytes back, up to but not including `stop`. */
static void smi_uncharge(smi_budget *b, uint64_t n, const smi_budget *stop) {
    for (; b != stop; b = b->up) SMI_ATOMIC_SUB(&b->held, n);
}

static smi_domain *smi_budget_domain(smi_budget *b) {
    return (smi_domain *)(void *)((char *)b - offsetof(struct sagemem_heap, budget));
}

static sagemem_status smi_fail_limit(const char *call, smi_budget *met, uint64_t n) {
    const smi_domain *d = smi_budget_domain(met);
    const char *what = d == &smi_process ? "process" : d->base == d ? "heap" : "scope";
    return smi_fail(SAGEMEM_E_LIMIT, 0, call,
                    "%s '%s' holds %llu bytes and may hold %llu: %llu more are over its limit; free memory, raise it with %s, or "
                    "add a reclaimer",
                    what, d->name, (unsigned long long)SMI_LOAD(&met->held), (unsigned long long)SMI_LOAD(&met->limit),
                    (unsigned long long)n, d->base == d || d == &smi_process ? "sagemem_limit_set" : "sagemem_scope_limit");
}

static sagemem_status smi_fail_system(const char *call, uint64_t n) {
    return smi_fail(SAGEMEM_E_NOMEM, smi_os_error(), call,
                    "the system gave no %llu bytes (%s); free memory, or raise the limit of the job (ulimit -v, cgroup)",
                    (unsigned long long)n, strerror(smi_os_error()));
}

/* ==========================================================================
 * >>pages  The library's own structures, the page map, regions, spans.
 * ========================================================================== */

/* -- The page map: two levels over the lower 48 bits of an address. Leaves are made when a page first needs
 *    them, cost what is touched of them (8 bytes for 16 KiB) and stay. */

#if UINTPTR_MAX > 0xFFFFFFFFu
enum { SMI_ROOT = 1 << (48 - SMI_GRANULE_SHIFT - SMI_LEAF_SHIFT) };
#else
enum { SMI_ROOT = 2 };
#endif
static smi_page **smi_map_root[SMI_ROOT];

/* The page that an address lies in, or NULL. Any pointer at all; takes no lock. */
SMI_INLINE smi_page *smi_lookup(const void *pointer) {
    uintptr_t granule = (uintptr_t)pointer >> SMI_GRANULE_SHIFT;
    if (SMI_UNLIKELY(granule >> SMI_LEAF_SHIFT >= SMI_ROOT)) return NULL;
    smi_page **leaf = __atomic_load_n(&smi_map_root[granule >> SMI_LEAF_SHIFT], __ATOMIC_ACQUIRE);
    if (SMI_UNLIKELY(leaf == NULL)) return NULL;
    /* acquire: pairs with the release in smi_map_set, so that the page's fields are seen */
    return __atomic_load_n(&leaf[granule & ((1u << SMI_LEAF_SHIFT) - 1)], __ATOMIC_ACQUIRE);
}

/* Makes the leaves for a range; any thread. */
static bool smi_map_prepare(const char *base, size_t bytes) {
    uintptr_t first = (uintptr_t)base >> (SMI_GRANULE_SHIFT + SMI_LEAF_SHIFT);
    uintptr_t last = ((uintptr_t)base + bytes - 1) >> (SMI_GRANULE_SHIFT + SMI_LEAF_SHIFT);
    for (uintptr_t i = first; i <= last; i++) {
        if (i >= SMI_ROOT) {
            errno = EFAULT; /* above 48 bits: no system hands these out unasked */
            return false;
        }
        if (SMI_LOAD_ACQUIRE(&smi_map_root[i]) != NULL) continue;
        size_t size = sizeof(smi_page *) << SMI_LEAF_SHIFT;
        smi_page **leaf = (smi_page **)smi_os_map(size, SMI_GRANULE), **none = NULL;
        if (leaf == NULL) return false;
        /* release: whoever finds the leaf finds it zeroed */
        if (!__atomic_compare_exchange_n(&smi_map_root[i], &none, leaf, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            smi_os_release(leaf, size);
    }
    return true;
}

SMI_INLINE smi_page **smi_map_entry(uintptr_t granule) {
    return &smi_map_root[granule >> SMI_LEAF_SHIFT][granule & ((1u << SMI_LEAF_SHIFT) - 1)];
}

/* Of a page, the map has all of it; but of a large huge block only where the block starts, so that the cost does not
 * grow with its size. (Two of these never start in the same granule: they are larger.) */
static bool smi_map_whole(const smi_page *page) { return page->kind != SMI_HUGE || page->bytes <= SMI_SPAN_MAX; }
static const char *smi_map_base(const smi_page *page) { return smi_map_whole(page) ? page->base : page->start; }
static size_t smi_map_bytes(const smi_page *page) { return smi_map_whole(page) ? page->bytes : 1; }

static smi_page *smi_dead_unused; /* obituaries that no entry of the map names any more */

/* Enters a page for a prepared range. Under smi_span_lock. */
static void smi_map_set(const char *base, size_t bytes, smi_page *page) {
    uintptr_t first = (uintptr_t)base >> SMI_GRANULE_SHIFT, end = ((uintptr_t)base + bytes + SMI_GRANULE - 1) >> SMI_GRANULE_SHIFT;
    for (uintptr_t i = first; i < end; i++) {
        smi_page **entry = smi_map_entry(i);
        smi_page *old = SMI_LOAD(entry);
        if (old != NULL && old->kind == SMI_DEAD && --old->references == 0) {
            old->next = smi_dead_unused;
            smi_dead_unused = old;
        }
        if (page != NULL && page->kind == SMI_DEAD) page->references++;
        SMI_STORE_RELEASE(entry, page);
    }
}

/* -- Meta memory: structures of the library. Never given back to the system, but used again by size. It is
 *    charged to the process alone. Under smi_meta_lock. */

enum { SMI_META_CLASSES = 16 + 32, SMI_META_BLOCK = 262144 };
typedef struct smi_meta_cell {
    struct smi_meta_cell *next;
} smi_meta_cell;
static smi_meta_cell *smi_meta_free_list[SMI_META_CLASSES];
static char *smi_meta_at, *smi_meta_end;
static smi_u64 smi_meta_bytes;
static smi_page smi_meta_page; /* what the page map shows for all of it: a pointer into it can be read */

/* Multiples of 64 up to 1 KiB, then powers of two. */
static int smi_meta_class(size_t *size) {
    if (*size <= 1024) {
        *size = (*size + 63) & ~(size_t)63;
        return (int)(*size / 64) - 1;
    }
    int shift = (int)sizeof(unsigned long long) * 8 - __builtin_clzll((unsigned long long)(*size - 1));
    *size = (size_t)1 << shift;
    return 16 + shift - 11;
}

/* Entered without smi_span_lock, which the caller may hold: nobody else names these granules, now or later. */
static void smi_map_set_meta(const char *base, size_t bytes) {
    for (size_t i = 0; i < bytes; i += SMI_GRANULE)
        SMI_STORE_RELEASE(smi_map_entry((uintptr_t)(base + i) >> SMI_GRANULE_SHIFT), &smi_meta_page);
}

/* Turns n bytes that the heap at work has reserved into the library's: what the process holds stays the same. */
static bool smi_meta_from_reserve(uint64_t n) {
    for (smi_budget *b = smi_mine.paying; b != NULL && b->up != NULL; b = b->up) {
        uint64_t drawn = smi_budget_draw(b, n);
        if (drawn == n) {
            for (smi_budget *up = b; up->up != NULL; up = up->up) SMI_ATOMIC_SUB(&up->held, n);
            return true;
        }
        SMI_ATOMIC_ADD(&b->reserved, drawn);
    }
    return false;
}

static void *smi_meta_grow(size_t size) {
    size_t block = size > SMI_META_BLOCK / 4 ? size : (size_t)SMI_META_BLOCK;
    smi_claim claim;
    bool charged = smi_charge(&smi_process.budget, block, 0, &claim);
    if (!charged && !smi_meta_from_reserve(block)) {
        smi_fail_limit("sagemem", claim.met, block);
        return NULL;
    }
    char *at = (char *)smi_os_map(block, SMI_GRANULE);
    if (at == NULL || !smi_map_prepare(at, block)) {
        smi_fail_system("sagemem", block);
        if (at != NULL) smi_os_release(at, block);
        if (charged) smi_claim_undo(&claim, NULL);
        else smi_uncharge(&smi_process.budget, block, NULL);
        return NULL;
    }
    smi_budget_peak(&smi_process.budget);
    smi_map_set_meta(at, block);
    SMI_ADD(&smi_meta_bytes, block);
    if (block == size) return at;
    smi_meta_at = at + size; /* what was left of the block before is forgotten: at most a quarter of one */
    smi_meta_end = at + block;
    return at;
}

/* Zeroed; NULL: E_NOMEM or E_LIMIT is set. */
static void *smi_meta_alloc(size_t size) {
    int index = smi_meta_class(&size);
    smi_lock_take(&smi_meta_lock);
    void *at = smi_meta_free_list[index];
    if (at != NULL) {
        smi_meta_free_list[index] = smi_meta_free_list[index]->next;
    } else if (size <= (size_t)(smi_meta_end - smi_meta_at)) {
        at = smi_meta_at;
        smi_meta_at += size;
    } else {
        at = smi_meta_grow(size);
    }
    smi_lock_give(&smi_meta_lock);
    if (at != NULL) memset(at, 0, size);
    return at;
}

static void smi_meta_free(void *at, size_t size) {
    if (at == NULL) return;
    int index = smi_meta_class(&size);
    smi_lock_take(&smi_meta_lock);
    smi_meta_cell *cell = (smi_meta_cell *)at;
    cell->next = smi_meta_free_list[index];
    smi_meta_free_list[index] = cell;
    smi_lock_give(&smi_meta_lock);
}

/* -- Regions: ranges of addresses from which spans of 16 KiB to 16 MiB are cut by bitmap. A granule is free
 *    or used, and dirty once it was used: dirty free granules are the process-wide cache. Under smi_span_lock. */

typedef struct smi_region {
    struct smi_region *next;
    char *base;
    size_t granules, free, hint; /* no free granule lies below hint */
    uint64_t *used, *dirty;
    uint64_t expires_ms;          /* when the dirty free granules go back; UINT64_MAX: never */
    size_t dirty_free;            /* granules that are dirty and free */
    const sagemem_source *source; /* buffer, file: whose; NULL: the system */
} smi_region;
static smi_region *smi_regions;

static bool smi_bit(const uint64_t *map, size_t i) { return map[i / 64] >> (i % 64) & 1; }
static void smi_bits_set(uint64_t *map, size_t from, size_t n) {
    for (size_t i = from; i < from + n; i++) map[i / 64] |= (uint64_t)1 << (i % 64);
}
static void smi_bits_clear(uint64_t *map, size_t from, size_t n) {
    for (size_t i = from; i < from + n; i++) map[i / 64] &= ~((uint64_t)1 << (i % 64));
}

static bool smi_region_init(smi_region *r, char *base, size_t granules) {
    size_t words = (granules + 63) / 64;
    uint64_t *maps = (uint64_t *)smi_meta_alloc(2 * words * sizeof(uint64_t));
    if (maps == NULL) return false;
    r->base = base;
    r->granules = r->free = granules;
    r->used = maps;
    r->dirty = maps + words;
    return true;
}

/* The first run of n free granules at or after `hint`; granules when there is none. */
static size_t smi_region_find(const smi_region *r, size_t n) {
    size_t run = 0;
    for (size_t i = r->hint; i < r->granules; i++) {
        if (run == 0 && i % 64 == 0 && r->used[i / 64] == UINT64_MAX) {
            i += 63;
        } else if (smi_bit(r->used, i)) {
            run = 0;
        } else if (++run == n) {
            return i + 1 - n;
        }
    }
    return r->granules;
}

static size_t smi_region_dirty(const smi_region *r, size_t at, size_t n) {
    size_t dirty = 0;
    for (size_t i = at; i < at + n; i++) dirty += smi_bit(r->dirty, i);
    return dirty;
}

/* Marks [at, at + n) used; the caller has made sure that it is free. */
static void smi_region_take(smi_region *r, size_t at, size_t n) {
    r->dirty_free -= smi_region_dirty(r, at, n);
    smi_bits_set(r->used, at, n);
    smi_bits_set(r->dirty, at, n);
    r->free -= n;
    if (at == r->hint) r->hint = at + n;
}

static void smi_region_give(smi_region *r, size_t at, size_t n) {
    smi_bits_clear(r->used, at, n);
    r->dirty_free += n;
    r->free += n;
    if (at < r->hint) r->hint = at;
}

/* Gives the dirty free granules of [at, at + n) back to the system; returns how many there were. */
static size_t smi_region_purge(smi_region *r, size_t at, size_t n) {
    size_t purged = 0;
    for (size_t i = at; i < at + n && r->dirty_free > 0;) {
        size_t run = 0;
        while (i + run < at + n && smi_bit(r->dirty, i + run) && !smi_bit(r->used, i + run)) run++;
        if (run > 0) {
            char *pages = r->base + i * SMI_GRANULE;
            smi_watch_open(pages, run * SMI_GRANULE); /* they will be somebody else's */
            if (r->source == NULL) smi_os_purge(pages, run * SMI_GRANULE);
            else if (!smi_os_file_purge(pages, run * SMI_GRANULE)) return purged;
            smi_bits_clear(r->dirty, i, run);
            r->dirty_free -= run;
            purged += run;
        }
        i += run + 1;
    }
    return purged;
}

/* Purges every region whose time has come, or all of them, and then gives wholly free ones up, addresses included: where
 * these are short, something else may need them. Bytes given back. Under smi_span_lock. */
static uint64_t smi_regions_purge(uint64_t now_ms, bool all) {
    uint64_t bytes = 0;
    for (smi_region **at = &smi_regions; *at != NULL;) {
        smi_region *r = *at;
        if (r->dirty_free > 0 && (all || now_ms >= r->expires_ms)) {
            bytes += (uint64_t)smi_region_purge(r, 0, r->granules) * SMI_GRANULE;
            r->expires_ms = 0;
        }
        if (!all || r->free < r->granules) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        smi_watch_open(r->base, r->granules * SMI_GRANULE);
        smi_os_release(r->base, r->granules * SMI_GRANULE);
        smi_meta_free(r->used, 2 * ((r->granules + 63) / 64) * sizeof(uint64_t));
        smi_meta_free(r, sizeof *r);
    }
    SMI_ATOMIC_SUB(&smi_process.budget.held, bytes);
    return bytes;
}

/* A new region: 256 MiB of addresses, or half of that and so on where the system refuses (ulimit -v, Valgrind). */
static smi_region *smi_region_create(size_t least_bytes) {
    size_t bytes = sizeof(void *) > 4 ? (size_t)256 << 20 : (size_t)16 << 20;
    char *base = NULL;
    for (; base == NULL && bytes >= least_bytes && bytes >= ((size_t)1 << 18); bytes /= 2) {
        base = (char *)smi_os_reserve(bytes);
        if (base != NULL) break;
    }
    if (base == NULL) return NULL;
    smi_region *r = (smi_region *)smi_meta_alloc(sizeof *r);
    if (r == NULL || !smi_region_init(r, base, bytes / SMI_GRANULE)) {
        smi_meta_free(r, sizeof *r);
        smi_os_release(base, bytes);
        return NULL;
    }
    r->next = smi_regions;
    smi_regions = r;
    return r;
}

static smi_region *smi_region_of(const char *at) {
    for (smi_region *r = smi_regions; r != NULL; r = r->next)
        if (at >= r->base && at < r->base + r->granules * SMI_GRANULE) return r;
    return NULL;
}

/* -- Spans: pages for a domain, charged to it and to everything above. ----------------------------------- */

/* A run of granules out of a region; charged. Under smi_span_lock. */
static char *smi_span_from_region(smi_domain *d, size_t bytes, bool *zeroed, smi_claim *claim) {
    size_t n = bytes / SMI_GRANULE, at = 0;
    smi_region *r = smi_regions;
    for (; r != NULL; r = r->next) {
        at = r->free >= n ? smi_region_find(r, n) : r->granules;
        if (at < r->granules) break;
    }
    if (r == NULL) {
        r = smi_region_create(bytes);
        if (r == NULL) return NULL;
        at = 0;
    }
    uint64_t cached = (uint64_t)smi_region_dirty(r, at, n) * SMI_GRANULE;
    if (!smi_charge(&d->budget, bytes, cached, claim)) return NULL;
    char *base = r->base + at * SMI_GRANULE;
    if (cached < bytes && !smi_os_commit(base, bytes)) {
        smi_claim_undo(claim, NULL);
        return NULL;
    }
    *zeroed = cached == 0;
    smi_region_take(r, at, n);
    return base;
}

/* A span that the regions cannot give: a mapping of its own, or the heap's own source; charged. */
static char *smi_span_from_outside(smi_domain *d, size_t bytes, size_t alignment, smi_claim *claim) {
    if (!smi_charge(&d->budget, bytes, 0, claim)) return NULL;
    const smi_domain *heap = d->base;
    char *base = NULL;
    if (heap->has_source) {
        if (!smi_os_fails()) base = (char *)heap->source.map_fn(heap->source.ctx, bytes, alignment);
        if (base == NULL) errno = ENOMEM;
    } else {
        base = (char *)smi_os_map(bytes, alignment);
    }
    if (base == NULL) smi_claim_undo(claim, NULL);
    return base;
}

/* The end of a span of a region goes back to it. Under smi_span_lock. */
static void smi_span_to_region(smi_domain *d, char *base, size_t bytes) {
    const smi_domain *heap = d->base;
    smi_region *r = smi_region_of(base);
    size_t at = (size_t)(base - r->base) / SMI_GRANULE, n = bytes / SMI_GRANULE;
    smi_uncharge(&d->budget, bytes, &smi_process.budget); /* the process holds it as long as it is dirty */
    smi_region_give(r, at, n);
    uint64_t now = smi_os_now_ms();
    if (heap->purge_delay_ms == (uint32_t)SAGEMEM_PURGE_NOW) {
        SMI_ATOMIC_SUB(&smi_process.budget.held, (uint64_t)smi_region_purge(r, at, n) * SMI_GRANULE);
    } else {
        /* The earliest wish counts: a region that is busy all the time is purged, too. */
        uint64_t expires = heap->purge_delay_ms == (uint32_t)SAGEMEM_PURGE_NEVER ? UINT64_MAX : now + heap->purge_delay_ms;
        if (r->expires_ms == 0 || expires < r->expires_ms) r->expires_ms = expires;
    }
    bool in_scope_end = heap != d && d->ending; /* which is to be short: what is due goes at the next page */
    if (!in_scope_end) smi_regions_purge(now, false);
}

/* Sizes are rounded to what the origin deals in. 0: overflow. */
static size_t smi_span_round(const smi_domain *d, size_t bytes) {
    size_t unit = (size_t)SMI_GRANULE;
    if (d->base->has_source && d->base->source.page_size > unit) unit = d->base->source.page_size;
    else if (!d->base->has_source && bytes > SMI_SPAN_MAX) unit = smi_os_page;
    return bytes > SIZE_MAX - unit ? 0 : (bytes + unit - 1) & ~(unit - 1);
}

static void smi_span_free(smi_domain *d, smi_page *page);

enum { SMI_HUGE_ZONE = 64 }; /* checked: bytes in front of the block, filled */
static bool smi_source_gave_huge(const sagemem_source *source);
static smi_page *smi_source_outer(const smi_domain *heap);

/* The pages of a span, from wherever this heap has them; *claim->met tells a limit from a refusal. Under smi_span_lock. */
static char *smi_span_take(smi_domain *d, smi_page *page, size_t alignment, bool *zeroed, smi_claim *claim) {
    bool region = !d->base->has_source && page->bytes <= SMI_SPAN_MAX && alignment <= SMI_GRANULE;
    char *base = NULL;
    smi_regions_purge(smi_os_now_ms(), false);
    *zeroed = true;
    for (int attempt = 0; attempt < 2; attempt++) {
        claim->met = NULL;
        page->origin = SMI_FROM_REGION;
        if (region) base = smi_span_from_region(d, page->bytes, zeroed, claim);
        if (base == NULL && claim->met == NULL) {
            page->origin = (uint8_t)(d->base->has_source ? SMI_FROM_SOURCE : SMI_FROM_SYSTEM);
            base = smi_span_from_outside(d, page->bytes, alignment, claim);
        }
        if (base != NULL || smi_regions_purge(0, true) == 0) break; /* free pages of the cache may make room */
    }
    return base;
}

/* A new page of the domain, in the page map and on no list; `front` bytes of it lie in front of page->start. NULL:
 * E_LIMIT or E_NOMEM is set, nothing changed. */
static smi_page *smi_page_create(smi_domain *d, smi_kind kind, size_t front, size_t bytes, size_t alignment, bool *zeroed,
                                 const char *call) {
    size_t rounded = smi_span_round(d, bytes);
    if (rounded == 0) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are more than an object can have", bytes);
        return NULL;
    }
    smi_page *page = (smi_page *)smi_meta_alloc(sizeof *page);
    if (page == NULL) return NULL;
    if (alignment < SMI_GRANULE) alignment = SMI_GRANULE;
    smi_claim claim;
    page->kind = (uint8_t)kind;
    page->bytes = rounded;
    page->domain = d;
    smi_lock_take(&smi_span_lock);
    page->base = smi_span_take(d, page, alignment, zeroed, &claim);
    if (page->base != NULL) page->start = page->base + front;
    bool aligned = ((uintptr_t)page->base & (alignment - 1)) == 0;
    bool mapped = page->base != NULL && aligned && smi_map_prepare(smi_map_base(page), smi_map_bytes(page));
    if (mapped) smi_map_set(smi_map_base(page), smi_map_bytes(page), page);
    smi_lock_give(&smi_span_lock);
    if (mapped) {
        smi_budget_peak(&d->budget);
        page->on_huge_pages = d->base->has_source && smi_source_gave_huge(&d->base->source);
        if (page->on_huge_pages) SMI_ADD(&d->base->huge_page_bytes, rounded);
        if (smi_watched) smi_watch_shut(page->base, rounded);
        return page;
    }
    int reason = errno;
    void *base = page->base;
    page->kind = SMI_META; /* not in the map */
    if (base != NULL) {
        smi_span_free(d, page);
        smi_claim_reserve(&claim);
    } else {
        smi_meta_free(page, sizeof *page);
    }
    errno = reason;
    if (!aligned)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "the source of heap '%s' gave pages at %p, not at a multiple of %zu", d->base->name,
                 base, alignment);
    else if (claim.met != NULL) smi_fail_limit(call, claim.met, rounded);
    else smi_fail_system(call, rounded);
    return NULL;
}

/* What a pointer into pages that are gone is told: the heap's name and, for a scope, its kind and id. */
static smi_page *smi_obituary(const smi_domain *d, const smi_page *page) {
    smi_page *dead = smi_dead_unused;
    if (dead != NULL) smi_dead_unused = dead->next;
    else dead = (smi_page *)smi_meta_alloc(sizeof *dead);
    if (dead == NULL) return NULL; /* then such a pointer is foreign */
    memset(dead, 0, sizeof *dead);
    dead->kind = SMI_DEAD;
    dead->name = d->base->name;
    dead->tag = page->kind == SMI_CHUNK || page->kind == SMI_SPARE ? (sagemem_tag)SAGEMEM_TAG_SAME : page->tag;
    dead->start = page->start;
    dead->state = d->base->ending || d->ending || (page->kind == SMI_SPARE && page->file != NULL);
    if (page->kind == SMI_SPARE) {
        dead->file = page->file;
        dead->id = page->id;
    } else if (d->base != d) {
        dead->file = d->name;
        dead->id = d->id;
    }
    return dead;
}

/* Gives a page's memory back: to its region, its source or the system. The page is on no list any more. */
static void smi_span_free(smi_domain *d, smi_page *page) {
    smi_domain *heap = d->base;
    if (page->on_huge_pages) SMI_SUB(&heap->huge_page_bytes, page->bytes);
    smi_lock_take(&smi_span_lock);
    if (page->kind != SMI_META) {
        smi_page *outer = smi_source_outer(heap);
        smi_map_set(smi_map_base(page), smi_map_bytes(page), outer != NULL ? outer : smi_obituary(d, page));
    }
    if (page->origin == SMI_FROM_REGION) {
        smi_span_to_region(d, page->base, page->bytes);
    } else {
        if (smi_watched) smi_watch_open(page->base, page->bytes);
        if (page->origin == SMI_FROM_SOURCE) heap->source.unmap_fn(heap->source.ctx, page->base, page->bytes);
        else smi_os_release(page->base, page->bytes);
        smi_uncharge(&d->budget, page->bytes, NULL);
    }
    smi_lock_give(&smi_span_lock);
    smi_meta_free(page, sizeof *page);
}

/* ==========================================================================
 * >>heap  Tags, scopes, blocks, accounting, validation.
 *
 *   tags and names - records and counting - peaks - chunks - slab pages -
 *   huge blocks - system blocks - what a pointer is - blocks freed by others -
 *   allocation - free - the public calls
 * ========================================================================== */

static void smi_init(void);
static void smi_start(void) { smi_os_once(smi_init); }

/* -- Tags and names. Names are never freed: who has one needs no lock. ------------------------------------------- */

typedef struct smi_name {
    struct smi_name *next;
    char text[SMI_NAME_MAX];
} smi_name;
static smi_name *smi_names[256];
static const char *smi_tag_names[SMI_TAGS];
static uint32_t smi_tags_named = SAGEMEM_TAG_USER_MAX + 1; /* next number to give out */

/* FNV-1a (Fowler, Noll, Vo), of at most the bytes that count. */
static uint32_t smi_hash_text(const char *text) {
    uint32_t hash = 2166136261u;
    for (int i = 0; i < SMI_NAME_MAX - 1 && text[i] != '\0'; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash;
}

/* The one copy of a name, cut at 63 bytes; NULL: E_NOMEM is set. Each distinct name costs 128 bytes for ever. */
static const char *smi_intern(const char *text) {
    size_t length = 0;
    while (length < SMI_NAME_MAX - 1 && text[length] != '\0') length++;
    if (text[length] != '\0') /* cut, but not inside a UTF-8 character */
        while (length > SMI_NAME_MAX - 5 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    smi_name **list = &smi_names[smi_hash_text(text) % 256];
    smi_lock_take(&smi_names_lock);
    smi_name *n = *list;
    while (n != NULL && (strncmp(n->text, text, length) != 0 || n->text[length] != '\0')) n = n->next;
    if (n == NULL && (n = (smi_name *)smi_meta_alloc(sizeof *n)) != NULL) {
        memcpy(n->text, text, length); /* the rest is 0 */
        n->next = *list;
        *list = n;
    }
    smi_lock_give(&smi_names_lock);
    return n != NULL ? n->text : NULL;
}

/* The tag with this (interned) name, or SAGEMEM_UNTAGGED. */
static sagemem_tag smi_tag_find(const char *name) {
    for (uint32_t i = 1; i < smi_tags_named; i++)
        if (smi_tag_names[i] == name) return (sagemem_tag)i;
    return SAGEMEM_UNTAGGED;
}

SAGEMEM_API sagemem_tag sagemem_tag_named(const char *name) {
    static bool said_full;
    const char *call = "sagemem_tag_named";
    smi_start();
    if (name == NULL || name[0] == '\0') {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "a tag needs a name: pass text such as \"Physics/Cooling\"");
        return SAGEMEM_UNTAGGED;
    }
    smi_lock_take(&smi_registry_lock);
    const char *own = smi_intern(name);
    sagemem_tag tag = own != NULL ? smi_tag_find(own) : (sagemem_tag)SAGEMEM_UNTAGGED;
    bool full = own != NULL && tag == SAGEMEM_UNTAGGED && smi_tags_named == SMI_TAGS;
    if (own != NULL && tag == SAGEMEM_UNTAGGED && !full) {
        tag = (sagemem_tag)smi_tags_named++;
        SMI_STORE_RELEASE(&smi_tag_names[tag], own);
    }
    bool say = full && !said_full;
    said_full |= full;
    smi_lock_give(&smi_registry_lock);
    if (full)
        smi_fail(SAGEMEM_E_FULL, 0, call,
                 "all %d tags have names, '%s' counts as untagged; use fewer names, not one for each object", SAGEMEM_TAG_MAX,
                 name);
    if (say) smi_log(SAGEMEM_LOG_WARNING, "%s", smi_mine.error.message);
    return tag;
}

SAGEMEM_API sagemem_status sagemem_tag_define(sagemem_tag tag, const char *name) {
    const char *call = "sagemem_tag_define";
    smi_start();
    if (tag == SAGEMEM_UNTAGGED || tag > SAGEMEM_TAG_USER_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is not one of 1 ... %d; start the enum at 1, or use sagemem_tag_named",
                        tag, SAGEMEM_TAG_USER_MAX);
    if (name == NULL || name[0] == '\0')
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u needs a name: pass text such as \"Physics/Cooling\"", tag);
    smi_lock_take(&smi_registry_lock);
    const char *own = smi_intern(name);
    sagemem_status status = SAGEMEM_OK;
    if (own == NULL) status = smi_mine.error.status;
    else if (smi_tag_names[tag] != NULL && smi_tag_names[tag] != own)
        status = smi_fail(SAGEMEM_E_BUSY, 0, call, "tag %u is '%s' already, not '%s'; give each tag one name", tag,
                          smi_tag_names[tag], own);
    else if (smi_tag_find(own) != SAGEMEM_UNTAGGED && smi_tag_find(own) != tag)
        status = smi_fail(SAGEMEM_E_BUSY, 0, call, "'%s' is tag %u already, not %u; give each name one tag", own, smi_tag_find(own),
                          tag);
    else SMI_STORE_RELEASE(&smi_tag_names[tag], own);
    smi_lock_give(&smi_registry_lock);
    return status;
}

SAGEMEM_API const char *sagemem_tag_name(sagemem_tag tag) {
    static const char *const unnamed = "tag out of range";
    if (tag == SAGEMEM_UNTAGGED) return "untagged";
    if (tag > SAGEMEM_TAG_MAX) return unnamed;
    const char *name = SMI_LOAD_ACQUIRE(&smi_tag_names[tag]);
    if (name != NULL) return name;
    smi_start();
    char text[16];
    smi_text(text, sizeof text, "tag %u", tag);
    name = smi_intern(text); /* not entered in the table: the number may still get a name */
    return name != NULL ? name : unnamed;
}

/* -- Records and counting ------------------------------------------------------------------------------------ */

SMI_INLINE smi_record *smi_record_find(const smi_domain *d, sagemem_tag tag) {
    smi_group *group = SMI_LOAD_ACQUIRE(&d->group[tag / SMI_GROUP]); /* pairs with the publication below */
    return group != NULL ? &group->record[tag % SMI_GROUP] : NULL;
}

/* The record, made if need be. Any thread: a child heap makes records in its parent. */
static smi_record *smi_record_make(smi_domain *d, sagemem_tag tag) {
    smi_record *found = smi_record_find(d, tag);
    if (SMI_LIKELY(found != NULL)) return found;
    smi_group *fresh = (smi_group *)smi_meta_alloc(sizeof *fresh), *none = NULL;
    if (fresh == NULL) return NULL;
    if (!__atomic_compare_exchange_n(&d->group[tag / SMI_GROUP], &none, fresh, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        smi_meta_free(fresh, sizeof *fresh);
    uint32_t end = SMI_LOAD(&d->groups_end), want = tag / SMI_GROUP + 1u;
    while (end < want && !SMI_CAS(&d->groups_end, &end, want)) {
    }
    return smi_record_find(d, tag);
}

/* The record of a tag that has blocks here. */
SMI_INLINE smi_record *smi_record_of(const smi_domain *d, sagemem_tag tag) {
    smi_group *group = SMI_LOAD_ACQUIRE(&d->group[tag / SMI_GROUP]);
    SMI_ASSUME(group != NULL);
    return &group->record[tag % SMI_GROUP];
}

/* Makes the tag's record in every domain that counts a block of d. */
static bool smi_records_ready(smi_domain *d, sagemem_tag tag) {
    for (smi_domain *a = d->base; a != NULL; a = a->parent) /* the heap takes over a scope's totals; above, peaks are told */
        if (smi_record_make(a, tag) == NULL) return false;
    for (; d != NULL; d = d->chain)
        if (smi_record_make(d, tag) == NULL) return false;
    return true;
}

/* The owner's view: blocks in other threads' hands-back list count until they are collected. */
SMI_INLINE uint64_t smi_record_bytes(const smi_record *r) { return SMI_LOAD(&r->alloc_bytes) - SMI_LOAD(&r->free_bytes); }
SMI_INLINE uint64_t smi_record_blocks(const smi_record *r) { return SMI_LOAD(&r->alloc_blocks) - SMI_LOAD(&r->free_blocks); }

/* The composition of a peak is copied on write: a record saves its bytes when they first change after the peak. */
SMI_INLINE void smi_record_touch(smi_domain *d, smi_record *r, uint64_t bytes) {
    if (SMI_LOAD(&r->epoch) == SMI_LOAD(&d->epoch)) return;
    SMI_STORE(&r->at_peak, bytes);
    SMI_STORE(&r->epoch, SMI_LOAD(&d->epoch));
}

SMI_INLINE void smi_count_alloc(smi_domain *d, sagemem_tag tag, uint64_t bytes, uint64_t blocks) {
    for (; d != NULL; d = d->chain) {
        smi_record *r = smi_record_of(d, tag);
        if (SMI_LOAD(&d->exact)) {
            smi_record_touch(d, r, smi_record_bytes(r));
            SMI_ADD(&d->sum, bytes);
        }
        SMI_ADD(&r->alloc_bytes, bytes);
        SMI_ADD(&r->alloc_blocks, blocks);
    }
}

/* A peak is noticed when the total first falls after it, not at every step of the climb. */
SMI_INLINE void smi_count_free_here(smi_domain *d, smi_record *r, uint64_t bytes, uint64_t blocks) {
    if (SMI_LOAD(&d->exact)) {
        uint64_t sum = SMI_LOAD(&d->sum);
        if (sum > SMI_LOAD(&d->peak)) {
            SMI_STORE(&d->peak, sum);
            SMI_ADD(&d->epoch, 1);
        }
        SMI_STORE(&d->sum, sum - bytes);
        uint64_t used = smi_record_bytes(r), count = smi_record_blocks(r);
        smi_record_touch(d, r, used);
        if (used > SMI_LOAD(&r->peak)) SMI_STORE(&r->peak, used);
        if (count > SMI_LOAD(&r->peak_blocks)) SMI_STORE(&r->peak_blocks, count);
    }
    SMI_ADD(&r->free_bytes, bytes);
    SMI_ADD(&r->free_blocks, blocks);
}
SMI_INLINE void smi_count_free(smi_domain *d, sagemem_tag tag, uint64_t bytes, uint64_t blocks) {
    for (; d != NULL; d = d->chain) smi_count_free_here(d, smi_record_of(d, tag), bytes, blocks);
}

/* What the domain's peak is a peak of: every block, or what was last seen. */
SMI_INLINE uint64_t smi_sum_of(const smi_domain *d) {
    return SMI_LOAD(&d->exact) ? SMI_LOAD_ACQUIRE(&d->sum) : SMI_LOAD_ACQUIRE(&d->seen);
}

/* The tag's part of the domain's peak. */
static uint64_t smi_record_at_peak(const smi_domain *d, const smi_record *r) {
    bool settled = smi_sum_of(d) <= SMI_LOAD(&d->peak) && SMI_LOAD(&r->epoch) == SMI_LOAD(&d->epoch);
    if (settled) return SMI_LOAD(&r->at_peak);
    return SMI_LOAD(&d->exact) ? smi_record_bytes(r) : SMI_LOAD(&r->seen_bytes) + SMI_LOAD(&r->kids_bytes);
}

/* A block freed by another thread is subtracted from the statistics at once, by that thread. */
static void smi_count_remote(smi_domain *d, sagemem_tag tag, uint64_t bytes, bool collected) {
    for (; d != NULL; d = d->chain) {
        smi_record *r = smi_record_of(d, tag);
        if (collected) {
            SMI_ATOMIC_SUB(&r->remote_bytes, bytes);
            SMI_ATOMIC_SUB(&r->remote_blocks, 1);
        } else {
            SMI_ATOMIC_ADD(&r->remote_bytes, bytes);
            SMI_ATOMIC_ADD(&r->remote_blocks, 1);
        }
    }
}

/* Blocks in use in a slab page, whoever asks: the frees are read first. */
static uint32_t smi_slab_used(const smi_page *page) {
    uint32_t freed = SMI_LOAD_ACQUIRE(&page->freed), remote = SMI_LOAD_ACQUIRE(&page->remote) >> 16;
    uint32_t used = SMI_LOAD(&page->total) - freed - remote;
    return used <= page->capacity ? used : page->capacity;
}

typedef struct smi_sums {
    uint64_t bytes, blocks, total_bytes, total_blocks;
} smi_sums;

static uint64_t smi_minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static void smi_record_sum(const smi_record *r, smi_sums *s) {
    uint64_t gone_bytes = SMI_LOAD_ACQUIRE(&r->free_bytes) + SMI_LOAD_ACQUIRE(&r->remote_bytes);
    uint64_t gone_blocks = SMI_LOAD_ACQUIRE(&r->free_blocks) + SMI_LOAD_ACQUIRE(&r->remote_blocks);
    uint64_t bytes = SMI_LOAD(&r->alloc_bytes), blocks = SMI_LOAD(&r->alloc_blocks);
    s->bytes += smi_minus(bytes, gone_bytes);
    s->blocks += smi_minus(blocks, gone_blocks);
    s->total_bytes += bytes + SMI_LOAD(&r->gone_bytes);
    s->total_blocks += blocks + SMI_LOAD(&r->gone_blocks);
    for (const smi_page *page = r->slabs; page != NULL; page = page->domain_next) {
        uint64_t used = smi_slab_used(page), ever = page->folded + SMI_LOAD(&page->total);
        s->bytes += used * page->block_size;
        s->blocks += used;
        s->total_bytes += ever * page->block_size;
        s->total_blocks += ever;
    }
}

/* What a tag has in one domain and its open scopes, children not included. Under the heap's lock. */
static void smi_domain_sum(const smi_domain *d, sagemem_tag tag, smi_sums *s) {
    const smi_record *r = smi_record_find(d, tag);
    if (r != NULL) smi_record_sum(r, s);
    if (d->inner != NULL && d->inner->chain != d) smi_domain_sum(d->inner, tag, s);
    for (const smi_domain *left = d->left; left != NULL; left = left->sibling_next)
        if (left->chain != d) smi_domain_sum(left, tag, s);
}

static uint64_t smi_peak_of(const smi_domain *d) {
    uint64_t sum = smi_sum_of(d), peak = SMI_LOAD(&d->peak); /* in this order: a sum falls after its peak is noted */
    return sum > peak ? sum : peak;
}

/* -- Peaks of ordinary heaps, of heaps with children and of the process: seen when pages change hands. -------- */

/* An account's peak is settled before anything in it changes. Under smi_stats_lock. */
static void smi_account_settle(smi_domain *a) {
    if (a->seen <= SMI_LOAD(&a->peak)) return;
    SMI_STORE(&a->peak, a->seen);
    SMI_ADD(&a->epoch, 1);
}

static void smi_account_add(smi_domain *a, smi_record *r, bool own, uint64_t bytes, uint64_t blocks) {
    smi_record_touch(a, r, r->seen_bytes + r->kids_bytes);
    if (own) {
        SMI_ADD(&r->seen_bytes, bytes); /* differences: modulo 2^64 */
        SMI_ADD(&r->seen_blocks, blocks);
    } else {
        SMI_ADD(&r->kids_bytes, bytes);
        SMI_ADD(&r->kids_blocks, blocks);
    }
    SMI_ADD(&a->seen, bytes);
    if (r->seen_bytes + r->kids_bytes > r->peak) SMI_STORE(&r->peak, r->seen_bytes + r->kids_bytes);
    if (r->seen_blocks + r->kids_blocks > r->peak_blocks) SMI_STORE(&r->peak_blocks, r->seen_blocks + r->kids_blocks);
}

/* A heap above whose record cannot be made is left out: its peak is then too small, its present counts are right. */
static void smi_publish_tag(smi_domain *heap, sagemem_tag tag, smi_record *r, uint64_t bytes, uint64_t blocks) {
    uint64_t more_bytes = bytes - r->seen_bytes, more_blocks = blocks - r->seen_blocks;
    if (more_bytes == 0 && more_blocks == 0) return;
    if (!heap->exact) {
        smi_account_add(heap, r, true, more_bytes, more_blocks);
    } else {
        r->seen_bytes = bytes;
        r->seen_blocks = blocks;
    }
    for (smi_domain *a = heap->parent; a != NULL; a = a->parent) {
        smi_record *above = smi_record_make(a, tag);
        if (above != NULL && !a->exact) smi_account_add(a, above, false, more_bytes, more_blocks);
    }
}

/* Brings the peaks of the heap and of all above it up to date. at_peak: an exact heap, or the outermost scope of
 * another, is shown as it was at its own peak, which may lie between two looks. Under the heap's lock. */
static void smi_publish(smi_domain *heap, bool at_peak) {
    const smi_domain *exact = heap->exact ? heap : heap->inner != NULL && heap->inner->chain != heap ? heap->inner : NULL;
    smi_lock_take(&smi_stats_lock);
    for (smi_domain *a = heap->exact ? heap->parent : heap; a != NULL; a = a->parent)
        if (!a->exact) smi_account_settle(a);
    heap->exact_seen = 0;
    for (uint32_t t = 0; t < SMI_LOAD(&heap->groups_end) * SMI_GROUP; t++) {
        sagemem_tag tag = (sagemem_tag)t;
        smi_record *r = smi_record_find(heap, tag); /* a scope's tags have one too: see smi_records_ready */
        if (r == NULL) continue;
        smi_sums now = {0, 0, 0, 0};
        smi_domain_sum(heap, tag, &now);
        const smi_record *in_exact = exact != NULL ? smi_record_find(exact, tag) : NULL;
        if (in_exact != NULL) {
            smi_sums inside = {0, 0, 0, 0};
            smi_record_sum(in_exact, &inside);
            uint64_t counted = at_peak ? smi_record_at_peak(exact, in_exact) : inside.bytes;
            now.bytes += counted - inside.bytes;
            heap->exact_seen += counted;
        }
        smi_publish_tag(heap, tag, r, now.bytes, now.blocks);
    }
    heap->events = 0;
    SMI_STORE(&heap->event_bytes, (size_t)0);
    smi_lock_give(&smi_stats_lock);
}

/* A scope ends: shows its peak, or that of its exact heap, to those that have not seen so much yet. Under the heap's lock. */
static void smi_publish_end(smi_domain *heap, const smi_domain *scope) {
    if (!heap->exact) {
        if (scope->chain == NULL && smi_peak_of(scope) > scope->told &&
            SMI_LOAD(&heap->seen) - heap->exact_seen + smi_peak_of(scope) > smi_peak_of(heap))
            smi_publish(heap, true);
    } else if (smi_peak_of(heap) > heap->peak_shown) {
        heap->peak_shown = smi_peak_of(heap);
        smi_publish(heap, true);
    }
}

/* Called when a page of the heap changes hands or a slab page is exhausted. Looking costs a walk of the pages, so
 * that is done once in pages/32 such events: the bound in the manual follows from this. Under the heap's lock. */
/* So much has been allocated since the last look that the peak may be off by more than the manual says. */
SMI_INLINE bool smi_event_due(const smi_domain *heap) {
    return SMI_LOAD(&heap->event_bytes) > SMI_LOAD(&heap->budget.held) / 32 + SMI_GRANULE;
}

/* The heap itself is about to grow while a scope is open: what the scope's peak was beside is told now, for afterwards
 * the heap is no longer what it was then. */
static void smi_outside_grows(smi_domain *heap) {
    smi_domain *scope = heap->inner;
    if (scope == NULL || scope->chain == heap || smi_peak_of(scope) == scope->told) return;
    smi_lock_take(&heap->lock);
    smi_publish(heap, true);
    smi_lock_give(&heap->lock);
    scope->told = smi_peak_of(scope);
}

static void smi_event(smi_domain *heap, size_t bytes) {
    SMI_ADD(&heap->event_bytes, bytes);
    if (++heap->events > heap->page_count / 32 || smi_event_due(heap)) smi_publish(heap, false);
}

/* From now on the heap has children: its peaks are those of an account. Under smi_registry_lock. */
static void smi_account_begin(smi_domain *heap) {
    if (heap == &smi_process || !heap->exact) return;
    smi_lock_take(&heap->lock);
    smi_publish(heap, false);
    smi_lock_take(&smi_stats_lock);
    uint64_t seen = 0;
    for (uint32_t t = 0; t < SMI_LOAD(&heap->groups_end) * SMI_GROUP; t++) {
        const smi_record *r = smi_record_find(heap, (sagemem_tag)t);
        if (r != NULL) seen += r->seen_bytes;
    }
    SMI_STORE(&heap->seen, seen); /* apart from `sum`, which the owner may be adding to right now */
    SMI_STORE(&heap->exact, false);
    smi_lock_give(&smi_stats_lock);
    smi_lock_give(&heap->lock);
}

/* The domains of a heap in turn: itself, its open scopes, those that a dead thread left open. */
static smi_domain *smi_domain_after(smi_domain *heap, smi_domain *d) {
    if (d->inner != NULL) return d->inner;
    while (d != heap && d->outer != heap) d = d->outer;
    return d != heap && d->orphan ? d->sibling_next : heap->left;
}

/* -- Chunks: blocks of any size and tag, each behind one word. -------------------------------------------------
 *
 *   page->start                                             bump_at (top)        bump_end
 *   |  pre | word | block ............ | pre | word | block ... |   not formatted   |
 *          ^ header, = 8 modulo 16                  ^ 16-aligned
 *
 *   word:  guard 24 | previous is free 1 | state 3 | tag 16 | units of 16 bytes 20     (low bits last)
 *   free:  word, next, prev (in the block), ..., units (in the last 8 bytes)
 *
 * `pre` is 0, or 48 bytes of smi_extra where sites or checks are wanted. The guard is a hash of address, units, tag
 * and the domain's salt: an overflow breaks it, and so does a word that an ended scope left behind. In a heap free
 * neighbours are merged; in a scope blocks up to 1 KiB wait apart for their exact size instead: it ends soon.
 * States change by compare-and-swap where another thread may free the same block.
 * ----------------------------------------------------------------------------------------------------------- */

typedef enum smi_state { SMI_LIVE = 1, SMI_FREE, SMI_APART, SMI_REMOTE, SMI_QUARANTINED } smi_state;
enum { SMI_UNITS_APART = 64, SMI_EXTRA = 48, SMI_RED_ZONE = 16 };
static const uint64_t SMI_FIELDS = ((uint64_t)1 << 36) - 1, SMI_PREV_FREE = (uint64_t)1 << 39;
static const uint64_t SMI_MIX = 0x9E3779B97F4A7C15u;

/* Words inside pages. Where a tool watches, they lie in memory that nobody may touch. */
SMI_PEEKS static uint64_t smi_get_quiet(const void *at) {
    smi_quiet_begin();
    uint64_t word = *(const volatile smi_u64 *)at;
    smi_quiet_end();
    smi_quiet_known(&word, sizeof word);
    return word;
}
SMI_PEEKS static void smi_set_quiet(void *at, uint64_t word) {
    smi_quiet_begin();
    *(volatile smi_u64 *)at = word;
    smi_quiet_end();
}
SMI_INLINE uint64_t smi_get(const void *at) {
    return SMI_UNLIKELY(smi_watched) ? smi_get_quiet(at) : SMI_LOAD((const smi_u64 *)at);
}
SMI_INLINE void smi_set(void *at, uint64_t word) {
    if (SMI_UNLIKELY(smi_watched)) smi_set_quiet(at, word);
    else SMI_STORE((smi_u64 *)at, word);
}
SMI_PEEKS static bool smi_swap(void *at, uint64_t expected, uint64_t desired) {
    smi_quiet_begin();
    smi_u64 e = expected;
    bool swapped = __atomic_compare_exchange_n((smi_u64 *)at, &e, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    smi_quiet_end();
    return swapped;
}
/* Both words of a free slab block. */
SMI_PEEKS static void smi_pair_quiet(void *at, uintptr_t first, uintptr_t second) {
    smi_quiet_begin();
    ((volatile uintptr_t *)at)[0] = first;
    ((volatile uintptr_t *)at)[1] = second;
    smi_quiet_end();
}
SMI_PEEKS static void smi_fill_quiet(void *at, int byte, size_t size) {
    smi_quiet_begin();
    volatile unsigned char *p = (volatile unsigned char *)at;
    for (size_t i = 0; i < size; i++) p[i] = (unsigned char)byte;
    smi_quiet_end();
}
/* The offset of the first byte that is not `byte`; size when all are. */
SMI_PEEKS static size_t smi_scan_quiet(const void *at, int byte, size_t size) {
    smi_quiet_begin();
    const volatile unsigned char *p = (const volatile unsigned char *)at;
    size_t i = 0;
    while (i < size && p[i] == (unsigned char)byte) i++;
    smi_quiet_end();
    return i;
}

/* The words of smi_extra, in front of a header. SMI_X_SIZE has the tag in its upper 16 bits, for when the header is damaged. */
static const uint64_t SMI_X_SIZE_MASK = ((uint64_t)1 << 48) - 1;
typedef enum smi_extra { SMI_X_CANARY, SMI_X_SIZE, SMI_X_FILE, SMI_X_FREE_FILE, SMI_X_NEXT, SMI_X_LINES } smi_extra;
SMI_INLINE char *smi_extra_at(const char *header, smi_extra which) {
    return (char *)(uintptr_t)header - SMI_EXTRA + 8 * (int)which;
}

SMI_INLINE uint64_t smi_units(uint64_t word) { return word & 0xFFFFF; }
SMI_INLINE sagemem_tag smi_word_tag(uint64_t word) { return (sagemem_tag)(word >> 20); }
SMI_INLINE smi_state smi_word_state(uint64_t word) { return (smi_state)(word >> 36 & 7); }
SMI_INLINE uint64_t smi_with_state(uint64_t word, smi_state state) { return (word & ~((uint64_t)7 << 36)) | (uint64_t)state << 36; }
SMI_INLINE uint64_t smi_guard_of(uint64_t salt, const char *header, uint64_t fields) {
    return ((fields ^ (uint64_t)(uintptr_t)header << 16 ^ salt) * SMI_MIX) >> 40;
}
SMI_INLINE uint64_t smi_guard(const smi_domain *d, const char *header, uint64_t fields) {
    return smi_guard_of(d->salt, header, fields);
}
SMI_INLINE uint64_t smi_word(const smi_domain *d, const char *header, uint64_t units, sagemem_tag tag, smi_state state) {
    uint64_t fields = units | (uint64_t)tag << 20;
    return fields | (uint64_t)state << 36 | smi_guard(d, header, fields) << 40;
}
/* The n-th scope of a heap has this salt. */
SMI_INLINE uint64_t smi_scope_salt(const smi_domain *heap, uint64_t n) { return (heap->salt ^ n) * SMI_MIX; }
SMI_INLINE bool smi_word_good(const smi_domain *d, const char *header, uint64_t word) {
    return word >> 40 == smi_guard(d, header, word & SMI_FIELDS) && smi_word_state(word) >= SMI_LIVE &&
           smi_word_state(word) <= SMI_QUARANTINED;
}

/* Exact sizes up to 1 KiB, then four to a doubling. */
SMI_INLINE unsigned smi_list_of(uint64_t units) {
    if (units <= SMI_UNITS_APART) return (unsigned)units;
    unsigned shift = 63u - (unsigned)__builtin_clzll(units);
    return 65 + (shift - 6) * 4 + (unsigned)(units >> (shift - 2) & 3);
}

/* A link in a freed block: 48 bits of address (the page map has no more) and 16 of proof, so that what was written
 * there after the free is seen before it is followed. */
static char *const SMI_BROKEN = (char *)1;
SMI_INLINE uint64_t smi_link_word(uint64_t salt, const char *at, const char *to) {
    uint64_t address = (uint64_t)(uintptr_t)to;
    return address | ((address ^ (uint64_t)(uintptr_t)at ^ salt) * SMI_MIX) >> 48 << 48;
}
SMI_INLINE void smi_link_put(uint64_t salt, char *at, const char *to) { smi_set(at, smi_link_word(salt, at, to)); }
SMI_INLINE char *smi_link_at(uint64_t salt, const char *at) {
    uint64_t word = smi_get(at);
    char *to = (char *)(uintptr_t)(word & (((uint64_t)1 << 48) - 1));
    return SMI_LIKELY(smi_link_word(salt, at, to) == word) ? to : SMI_BROKEN;
}
/* Links of a free block: its second and third word. */
SMI_INLINE char *smi_link_get(const smi_domain *d, const char *header, int which) {
    return smi_link_at(d->salt, header + 8 + 8 * which);
}
SMI_INLINE void smi_link_set(const smi_domain *d, char *header, int which, const char *to) {
    smi_link_put(d->salt, header + 8 + 8 * which, to);
}

static void smi_list_push(smi_domain *d, char *header, uint64_t units) {
    unsigned i = smi_list_of(units);
    char *first = (char *)d->lists[i];
    smi_link_set(d, header, 0, first);
    smi_link_set(d, header, 1, NULL);
    if (first != NULL) smi_link_set(d, first, 1, header);
    d->lists[i] = (smi_free_block *)(void *)header;
    d->list_map[i / 64] |= (uint64_t)1 << (i % 64);
}
SMI_NOINLINE void smi_list_damaged(smi_domain *d, const char *header, unsigned list);

/* False: the block was written to after it was freed; the fault handler was called, its list is given up. */
static bool smi_list_remove(smi_domain *d, char *header, uint64_t units) {
    unsigned i = smi_list_of(units);
    char *next = smi_link_get(d, header, 0), *prev = smi_link_get(d, header, 1);
    if (SMI_UNLIKELY(next == SMI_BROKEN || prev == SMI_BROKEN)) {
        smi_list_damaged(d, header, i);
        return false;
    }
    if (next != NULL) smi_link_set(d, next, 1, prev);
    if (prev != NULL) smi_link_set(d, prev, 0, next);
    else d->lists[i] = (smi_free_block *)(void *)next;
    if (d->lists[i] == NULL) d->list_map[i / 64] &= ~((uint64_t)1 << (i % 64));
    return true;
}
SMI_NOINLINE void smi_list_damaged(smi_domain *d, const char *header, unsigned list) {
    uint64_t word = smi_get(header);
    d->lists[list] = NULL; /* what hung behind the block is leaked: nothing of it can be trusted */
    d->list_map[list / 64] &= ~((uint64_t)1 << (list % 64));
    smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem",
              "freed block %p (tag '%s', heap '%s') was written to after it was freed, or the block before it overflowed; a "
              "SAGEMEM_HEAP_CHECKED heap tells which",
              (const void *)(header + 8), smi_word_good(d, header, word) ? sagemem_tag_name(smi_word_tag(word)) : "unknown",
              d->base->name);
}

/* Least units of a block: the word, two links and the size at the end. */
SMI_INLINE uint64_t smi_units_min(const smi_domain *d) { return (d->pre + 32u + 15u) / 16u; }
SMI_INLINE char *smi_chunk_top(const smi_domain *d, const smi_page *page) { return page == d->chunk ? d->bump_at : page->top; }
/* The header behind a block, or NULL at the end of the formatted part. */
SMI_INLINE char *smi_next_header(const smi_domain *d, const smi_page *page, char *header, uint64_t units) {
    char *next = header + units * 16;
    return next - d->pre < smi_chunk_top(d, page) ? next : NULL;
}

/* Tells the block behind whether its neighbour is free; another thread may be freeing that block right now. */
static void smi_mark_next(const smi_domain *d, const smi_page *page, char *header, uint64_t units, bool is_free) {
    char *next = smi_next_header(d, page, header, units);
    if (next == NULL) return;
    for (;;) {
        uint64_t word = smi_get(next), marked = is_free ? word | SMI_PREV_FREE : word & ~SMI_PREV_FREE;
        if (word == marked || smi_swap(next, word, marked)) return;
    }
}

/* Enters a mergeable free block whose neighbours are both in use. tag: of the block that was there, for messages. */
static void smi_chunk_put(smi_domain *d, smi_page *page, char *header, uint64_t units, sagemem_tag tag) {
    smi_set(header, smi_word(d, header, units, tag, SMI_FREE));
    smi_set(header - d->pre + units * 16 - 8, units);
    smi_list_push(d, header, units);
    smi_mark_next(d, page, header, units, true);
}

/* Cuts a block that was taken off its list to `want` units; the rest, if it can be a block, is free again. */
static uint64_t smi_chunk_cut(smi_domain *d, smi_page *page, char *header, uint64_t have, uint64_t want) {
    if (have - want < smi_units_min(d)) {
        smi_mark_next(d, page, header, have, false);
        return have;
    }
    smi_chunk_put(d, page, header + want * 16, have - want, 0);
    return want;
}

/* Best fit among the mergeable free blocks; *units: what it has. *damaged: one was found that had been written to. */
static char *smi_chunk_fit(smi_domain *d, uint64_t *units, bool *damaged) {
    unsigned i = smi_list_of(*units);
    char *found = NULL, *next;
    int tries = 0;
    for (char *h = (char *)d->lists[i]; h != NULL && tries < 8; h = next, tries++) {
        if (smi_units(smi_get(h)) >= *units && smi_word_state(smi_get(h)) == SMI_FREE) {
            found = h;
            break;
        }
        next = smi_link_get(d, h, 0);
        if (SMI_UNLIKELY(next == SMI_BROKEN)) {
            smi_list_damaged(d, h, i);
            *damaged = true;
            return NULL;
        }
    }
    unsigned from = d->bump && i < SMI_UNITS_APART ? (unsigned)SMI_UNITS_APART : i; /* a scope's small ones are not mergeable */
    for (unsigned w = (from + 1) / 64; found == NULL && w < 2; w++) {
        uint64_t map = d->list_map[w];
        if (w == (from + 1) / 64) map &= ~(uint64_t)0 << ((from + 1) % 64);
        if (map == 0) continue;
        i = w * 64 + (unsigned)__builtin_ctzll(map);
        found = (char *)d->lists[i];
    }
    if (found == NULL) return NULL;
    uint64_t word = smi_get(found), have = smi_units(word);
    bool good = smi_word_good(d, found, word);
    if (SMI_UNLIKELY(!good)) smi_list_damaged(d, found, i);
    *damaged = !good || !smi_list_remove(d, found, have);
    if (SMI_UNLIKELY(*damaged)) return NULL;
    *units = smi_chunk_cut(d, smi_lookup(found), found, have, *units);
    return found;
}

/* The rest of the present chunk becomes a free block, or stays unformatted when it is too small. */
static void smi_chunk_seal(smi_domain *d) {
    smi_page *page = d->chunk;
    if (page == NULL) return;
    uint64_t rest = (uint64_t)(d->bump_end - d->bump_at) / 16;
    char *header = d->bump_at + d->pre;
    d->chunk = NULL;
    page->top = rest >= smi_units_min(d) ? d->bump_end : d->bump_at;
    d->bump_at = d->bump_end = NULL;
    if (rest >= smi_units_min(d)) smi_chunk_put(d, page, header, rest, 0);
}

/* A chunk kept from an ended scope, large enough and within the limits of the open ones. */
static smi_page *smi_chunk_spare(smi_domain *d, size_t need) {
    smi_domain *heap = d->base;
    for (smi_page **at = &heap->spares; *at != NULL; at = &(*at)->domain_next) {
        smi_page *page = *at;
        if (page->bytes < need) continue;
        smi_budget *b = &d->budget;
        for (; b != &heap->budget; b = b->up)
            if (!smi_budget_add(b, page->bytes)) break;
        if (b != &heap->budget) {
            for (smi_budget *undo = &d->budget; undo != b; undo = undo->up) SMI_ATOMIC_SUB(&undo->held, page->bytes);
            continue;
        }
        smi_budget_peak(&d->budget);
        *at = page->domain_next;
        heap->spare_bytes -= page->bytes;
        page->kind = SMI_CHUNK;
        page->domain = d;
        return page;
    }
    return NULL;
}

static void smi_page_link(smi_domain *d, smi_page **list, smi_page *page) {
    page->domain_prev = NULL;
    page->domain_next = *list;
    if (*list != NULL) (*list)->domain_prev = page;
    *list = page;
    d->base->page_count++;
}
static void smi_page_unlink(smi_domain *d, smi_page **list, smi_page *page) {
    if (page->domain_next != NULL) page->domain_next->domain_prev = page->domain_prev;
    if (page->domain_prev != NULL) page->domain_prev->domain_next = page->domain_next;
    else *list = page->domain_next;
    d->base->page_count--;
}

/* Chunks grow with what there is: a scope doubles up from 64 KiB, a heap adds an eighth from 16 KiB up. */
static size_t smi_chunk_next_bytes(const smi_domain *d, size_t need) {
    size_t bytes = d->bump ? d->chunk_bytes : d->chunk_bytes / 8;
    size_t least = d->bump ? 4 * (size_t)SMI_GRANULE : (size_t)SMI_GRANULE;
    if (bytes < least) bytes = least;
    if (bytes < need) bytes = need;
    if (bytes > SMI_CHUNK_MAX && need <= SMI_CHUNK_MAX) bytes = SMI_CHUNK_MAX;
    return (bytes + SMI_GRANULE - 1) & ~(size_t)(SMI_GRANULE - 1);
}

static bool smi_chunk_new(smi_domain *d, uint64_t units, const char *call) {
    size_t need = (size_t)units * 16 + 16;
    smi_page *page = smi_chunk_spare(d, need);
    bool zeroed, spare = page != NULL;
    if (page == NULL) page = smi_page_create(d, SMI_CHUNK, 8, smi_chunk_next_bytes(d, need), 1, &zeroed, call);
    if (page == NULL && smi_chunk_next_bytes(d, need) > smi_span_round(d, need))
        page = smi_page_create(d, SMI_CHUNK, 8, need, 1, &zeroed, call); /* near a limit */
    if (page == NULL) return false;
    smi_lock_take(&d->base->lock);
    smi_chunk_seal(d);
    page->start = page->base + 8;
    d->chunk = page;
    d->chunk_bytes += page->bytes;
    d->bump_at = page->start;
    d->bump_end = page->base + (page->bytes < SMI_CHUNK_END ? page->bytes : (size_t)SMI_CHUNK_END) - 8;
    smi_page_link(d, &d->pages, page);
    if (!spare) smi_event(d->base, page->bytes); /* a spare stays in the heap's hands */
    smi_lock_give(&d->base->lock);
    return true;
}

SMI_INLINE char *smi_chunk_bump(smi_domain *d, uint64_t units) {
    if ((size_t)(d->bump_end - d->bump_at) < units * 16) return NULL;
    char *header = d->bump_at + d->pre;
    d->bump_at += units * 16;
    return header;
}

/* Room for `units`, not yet a block: its word is to be written. *units: what it really has; *mark: the
 * previous-is-free bit to keep. */
static char *smi_chunk_take(smi_domain *d, uint64_t *units, uint64_t *mark, const char *call) {
    bool damaged = false;
    *mark = 0;
    if (*units <= SMI_UNITS_APART && d->lists[*units] != NULL) {
        char *header = (char *)d->lists[*units];
        uint64_t word = smi_get(header);
        bool good = smi_word_good(d, header, word);
        if (SMI_UNLIKELY(!good)) smi_list_damaged(d, header, (unsigned)*units);
        if (SMI_UNLIKELY(!good || !smi_list_remove(d, header, *units))) return NULL;
        if (smi_word_state(word) == SMI_APART) *mark = word & SMI_PREV_FREE;
        else smi_mark_next(d, smi_lookup(header), header, *units, false);
        return header;
    }
    char *header = d->bump ? smi_chunk_bump(d, *units) : smi_chunk_fit(d, units, &damaged);
    if (header == NULL && !damaged) header = d->bump ? smi_chunk_fit(d, units, &damaged) : smi_chunk_bump(d, *units);
    if (header == NULL && !damaged && smi_chunk_new(d, *units, call)) header = smi_chunk_bump(d, *units);
    return header;
}

/* A chunk that is one free block goes back. */
static void smi_chunk_release(smi_domain *d, smi_page *page) {
    smi_lock_take(&d->base->lock);
    smi_page_unlink(d, &d->pages, page);
    d->chunk_bytes -= page->bytes;
    smi_event(d->base, page->bytes);
    smi_lock_give(&d->base->lock);
    smi_span_free(d, page);
}

/* The free block in front of a header, or NULL: what says where it begins, or its own word, was written to. */
static char *smi_chunk_before(smi_domain *d, const smi_page *page, char *header) {
    uint64_t units = smi_get(header - d->pre - 8), most = (uint64_t)(header - d->pre - page->start) / 16;
    char *before = header - (units <= most ? units : 0) * 16;
    uint64_t word = smi_get(before);
    if (before != header && smi_units(word) == units && smi_word_good(d, before, word) && smi_word_state(word) == SMI_FREE)
        return before;
    smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_free",
              "the free block in front of block %p (heap '%s') was written to after it was freed, or block %p underflowed; a "
              "SAGEMEM_HEAP_CHECKED heap tells which",
              (void *)(header + 8), d->base->name, (void *)(header + 8));
    return NULL;
}

/* False: the word behind a block is damaged; the fault handler was called. */
static bool smi_chunk_behind(smi_domain *d, char *header, uint64_t word, const char *next) {
    if (SMI_LIKELY(smi_word_good(d, next, smi_get(next)))) return true;
    smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_free",
              "block %p (%zu bytes, tag '%s', heap '%s') was written to behind its end (overflow), or the one behind it, %p, in "
              "front of its first byte (underflow)",
              (void *)(header + 8), (size_t)smi_units(word) * 16 - 8 - d->pre, sagemem_tag_name(smi_word_tag(word)), d->base->name,
              (const void *)(next + 8));
    return false;
}

/* Makes room free again; the block is not counted any more. Its word says so also where it is merged with its
 * neighbours: a second free then finds it. */
static void smi_chunk_free(smi_domain *d, smi_page *page, char *header, uint64_t word) {
    uint64_t units = smi_units(word);
    sagemem_tag tag = smi_word_tag(word);
    char *next = smi_next_header(d, page, header, units);
    if (d->bump && units <= SMI_UNITS_APART && (next != NULL || page != d->chunk || (word & SMI_PREV_FREE) != 0)) {
        smi_set(header, smi_with_state(word, SMI_APART));
        smi_list_push(d, header, units);
        return;
    }
    smi_set(header, smi_with_state(word, SMI_FREE));
    bool merge = next == NULL || smi_chunk_behind(d, header, word, next);
    char *before = (word & SMI_PREV_FREE) != 0 ? smi_chunk_before(d, page, header) : NULL;
    if (before != NULL) {
        uint64_t first = smi_get(before);
        if (smi_list_remove(d, before, smi_units(first))) {
            header = before;
            units += smi_units(first);
            tag = smi_word_tag(first);
        }
    }
    if (next != NULL && merge && smi_word_state(smi_get(next)) == SMI_FREE) {
        uint64_t behind = smi_units(smi_get(next));
        if (smi_list_remove(d, next, behind)) {
            units += behind;
            next = smi_next_header(d, page, next, behind);
        }
    }
    if (next == NULL && page == d->chunk) d->bump_at = header - d->pre;
    else if (next == NULL && header - d->pre == page->start) smi_chunk_release(d, page);
    else smi_chunk_put(d, page, header, units, tag);
}

/* Usable bytes of a live block. */
SMI_INLINE size_t smi_chunk_size(const smi_domain *d, const char *header, uint64_t word) {
    return d->pre == 0 ? (size_t)smi_units(word) * 16 - 8 : (size_t)(smi_get(smi_extra_at(header, SMI_X_SIZE)) & SMI_X_SIZE_MASK);
}
SMI_INLINE bool smi_checked(const smi_domain *d) { return d->post != 0; }

static uint64_t smi_canary(const smi_domain *d, const char *header) { return ((uint64_t)(uintptr_t)header ^ d->salt) * SMI_MIX; }

typedef struct smi_site {
    const char *file;
    int line;
} smi_site;

enum { SMI_FILL_NEW = 0xCB, SMI_FILL_FREED = 0xDF, SMI_FILL_ZONE = 0xFB }; /* "clean", "dead", "fence" */

/* Fills in smi_extra and, in a checked heap, what lies around and in the block. */
static void smi_chunk_dress(smi_domain *d, char *header, uint64_t units, size_t size, sagemem_tag tag, smi_site site) {
    smi_set(smi_extra_at(header, SMI_X_CANARY), smi_canary(d, header));
    smi_set(smi_extra_at(header, SMI_X_SIZE), (uint64_t)size | (uint64_t)tag << 48);
    smi_set(smi_extra_at(header, SMI_X_FILE), (uint64_t)(uintptr_t)site.file);
    smi_set(smi_extra_at(header, SMI_X_FREE_FILE), 0);
    smi_set(smi_extra_at(header, SMI_X_LINES), (uint32_t)site.line);
    if (!smi_checked(d)) return;
    size_t room = (size_t)units * 16 - 8 - d->pre;
    smi_fill_quiet(header + 8, SMI_FILL_NEW, size);
    smi_fill_quiet(header + 8 + size, SMI_FILL_ZONE, room - size);
}

static sagemem_status smi_chunk_intact(const smi_domain *d, const char *header, uint64_t word, char *why, size_t why_size);

/* A block in a chunk of d; counted. Records are ready, `size` is below SMI_CHUNK_BLOCK_MAX. */
static void *smi_chunk_alloc(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    uint64_t want = (d->pre + 8u + size + d->post + 15u) / 16u, mark;
    if (want < smi_units_min(d)) want = smi_units_min(d);
    uint64_t units = alignment > 16 ? want + alignment / 16 + smi_units_min(d) : want;
    char *header = smi_chunk_take(d, &units, &mark, call);
    if (header == NULL) return NULL;
    if (alignment > 16) {
        smi_page *page = smi_lookup(header);
        uintptr_t block = (uintptr_t)header + 8, fit = (block + alignment - 1) & ~(uintptr_t)(alignment - 1);
        while (fit != block && fit - block < smi_units_min(d) * 16) fit += alignment;
        uint64_t lead = (fit - block) / 16;
        char *at = header + lead * 16;
        smi_set(at, smi_word(d, at, units - lead, tag, SMI_LIVE)); /* in use, so that what lies in front is not merged with it */
        if (lead > 0) {
            smi_chunk_free(d, page, header, smi_word(d, header, lead, 0, SMI_LIVE) | mark);
            mark = smi_get(at) & SMI_PREV_FREE;
        }
        header = at;
        units -= lead;
        if (units - want >= smi_units_min(d)) {
            char *rest = header + want * 16;
            uint64_t word = smi_word(d, rest, units - want, 0, SMI_LIVE);
            smi_set(rest, word);
            units = want;
            smi_set(header, smi_word(d, header, units, tag, SMI_LIVE) | mark);
            smi_chunk_free(d, page, rest, word);
        }
    }
    smi_set(header, smi_word(d, header, units, tag, SMI_LIVE) | mark);
    if (d->pre != 0) smi_chunk_dress(d, header, units, smi_checked(d) ? size : (size_t)units * 16 - 8 - d->pre, tag, site);
    size_t usable = smi_chunk_size(d, header, smi_get(header));
    smi_count_alloc(d, tag, usable, 1);
    if (d->pre != 0) SMI_ADD(&d->header_bytes, units * 16 - usable);
    if (d == d->base && !SMI_LOAD(&d->exact)) { /* holes fill without a page changing hands */
        SMI_ADD(&d->event_bytes, usable);
        if (smi_event_due(d)) {
            smi_lock_take(&d->lock);
            smi_publish(d, false);
            smi_lock_give(&d->lock);
        }
    }
    if (smi_watched) smi_watch_alloc(header + 8, usable, false);
    return header + 8;
}

/* A live block is not counted any more: tools, statistics. */
static void smi_chunk_forget(smi_domain *d, char *header, uint64_t word) {
    size_t usable = smi_chunk_size(d, header, word);
    if (smi_watched) smi_watch_free(header + 8, usable);
    smi_count_free(d, smi_word_tag(word), usable, 1);
    if (d->pre != 0) SMI_SUB(&d->header_bytes, smi_units(word) * 16 - usable);
}

/* -- Quarantine of checked domains: freed blocks wait, filled, oldest first. ---------------------------------- */

enum { SMI_QUARANTINE_MAX = 1 << 20 };

static sagemem_status smi_quarantine_damaged(const smi_domain *d, char *header, uint64_t word, size_t at, const char *call);

static sagemem_status smi_quarantine_intact(const smi_domain *d, char *header, uint64_t word, const char *call) {
    size_t size = smi_chunk_size(d, header, word), at = smi_scan_quiet(header + 8, SMI_FILL_FREED, size);
    if (at == size) return SAGEMEM_OK;
    return smi_quarantine_damaged(d, header, word, at, call);
}

static void smi_quarantine_leave(smi_domain *d) {
    char *header = (char *)d->quarantine_first;
    uint64_t word = smi_get(header);
    d->quarantine_first = (void *)(uintptr_t)smi_get(smi_extra_at(header, SMI_X_NEXT));
    if (d->quarantine_first == NULL) d->quarantine_last = NULL;
    d->quarantine_bytes -= (size_t)smi_units(word) * 16;
    if (smi_quarantine_intact(d, header, word, "quarantine") == SAGEMEM_OK) smi_chunk_free(d, smi_lookup(header), header, word);
}

static void smi_quarantine_flush(smi_domain *d) {
    while (d->quarantine_first != NULL) smi_quarantine_leave(d);
}

static void smi_quarantine_enter(smi_domain *d, char *header, uint64_t word, smi_site site) {
    smi_fill_quiet(header + 8, SMI_FILL_FREED, smi_chunk_size(d, header, word));
    smi_set(smi_extra_at(header, SMI_X_FREE_FILE), (uint64_t)(uintptr_t)site.file);
    smi_set(smi_extra_at(header, SMI_X_LINES),
            (smi_get(smi_extra_at(header, SMI_X_LINES)) & 0xFFFFFFFFu) | (uint64_t)(uint32_t)site.line << 32);
    smi_set(smi_extra_at(header, SMI_X_NEXT), 0);
    smi_set(header, smi_with_state(word, SMI_QUARANTINED));
    if (d->quarantine_last != NULL) smi_set(smi_extra_at((char *)d->quarantine_last, SMI_X_NEXT), (uint64_t)(uintptr_t)header);
    else d->quarantine_first = header;
    d->quarantine_last = header;
    d->quarantine_bytes += (size_t)smi_units(word) * 16;
    while (d->quarantine_bytes > SMI_QUARANTINE_MAX) smi_quarantine_leave(d);
}

/* -- Slab pages: blocks of one size class and one tag, without headers. -----------------------------------------
 *
 *   base  start           limit          start + capacity * block_size     base + bytes
 *   | color | block | block |  untouched blocks  |                         rest |
 *
 * In use: total - freed - (count in remote). A page is the class's current one, or full and on no list, or queued
 * with some blocks free, or queued and empty. `freed == trigger` is the one test in sagemem_free: it says that a
 * full page has an eighth of its blocks back, that a queued one is empty, or that the counters need folding.
 * ----------------------------------------------------------------------------------------------------------- */

enum { SMI_FOLD_AT = 1 << 30, SMI_THREAD_BYTES = 4096 };

static smi_page smi_no_page; /* what `current` shows where there is none: no free block, ever */
static smi_bins smi_no_bins;

SMI_INLINE unsigned smi_class_of(size_t size) {
    if (SMI_LIKELY(size <= SMI_EXACT_MAX)) return (unsigned)((size + 15) / 16);
    unsigned shift = 63u - (unsigned)__builtin_clzll((unsigned long long)(size - 1)) - 5;
    return 65 + (shift - 5) * 32 + ((unsigned)((size - 1) >> shift) - 32);
}
static size_t smi_class_size(unsigned class_index) {
    if (class_index <= 64) return class_index == 0 ? 16 : (size_t)class_index * 16;
    unsigned step = (class_index - 65) % 32, shift = 5 + (class_index - 65) / 32;
    return (size_t)(33 + step) << shift;
}

SMI_INLINE bool smi_cell_proves(const smi_page *page, const smi_cell *cell) {
    return ((uintptr_t)cell->next ^ cell->proof ^ (uintptr_t)cell) == page->key;
}
SMI_INLINE void smi_cell_push(smi_page *page, smi_cell *cell) {
    cell->next = page->cells;
    cell->proof = (uintptr_t)cell->next ^ (uintptr_t)cell ^ page->key;
    page->cells = cell;
}
SMI_PEEKS static bool smi_cell_proves_quiet(const smi_page *page, const smi_cell *cell) {
    smi_quiet_begin();
    const volatile smi_cell *c = cell;
    bool proves = ((uintptr_t)c->next ^ c->proof ^ (uintptr_t)cell) == page->key;
    smi_quiet_known(&proves, sizeof proves);
    smi_quiet_end();
    return proves;
}
SMI_PEEKS static smi_cell *smi_cell_next_quiet(const smi_cell *cell) {
    smi_quiet_begin();
    smi_cell *next = ((const volatile smi_cell *)cell)->next;
    smi_quiet_end();
    smi_quiet_known(&next, sizeof next);
    return next;
}
static void smi_cell_push_quiet(smi_page *page, smi_cell *cell) {
    smi_pair_quiet(cell, (uintptr_t)page->cells, (uintptr_t)page->cells ^ (uintptr_t)cell ^ page->key);
    page->cells = cell;
}

/* The block's number in its page, or -1: `at` is not the start of a block that was ever handed out. */
SMI_INLINE int64_t smi_slab_index(const smi_page *page, const void *at) {
    uintptr_t offset = (uintptr_t)at - (uintptr_t)page->start;
    if (offset >= page->limit || (uint64_t)offset * page->inverse >= page->inverse) return -1;
    return (int64_t)(offset / page->block_size);
}

static smi_bins *smi_bins_of(const smi_domain *d, sagemem_tag tag) { return tag < d->bins_count ? d->bins[tag] : &smi_no_bins; }

/* The tag's own bins, made if need be. */
static smi_bins *smi_bins_make(smi_domain *d, sagemem_tag tag) {
    if (tag >= d->bins_count) {
        uint32_t count = d->bins_count > 0 ? d->bins_count : 16;
        while (count <= tag) count *= 2;
        smi_bins **bins = (smi_bins **)smi_meta_alloc(count * sizeof *bins);
        if (bins == NULL) return NULL;
        for (uint32_t i = 0; i < count; i++) bins[i] = smi_bins_of(d, (sagemem_tag)i);
        smi_meta_free(d->bins, d->bins_count * sizeof *bins);
        d->bins = bins;
        d->bins_count = count;
    }
    if (d->bins[tag] != &smi_no_bins) return d->bins[tag];
    smi_bins *fresh = (smi_bins *)smi_meta_alloc(sizeof *fresh);
    if (fresh == NULL) return NULL;
    for (int i = 0; i < SMI_CLASSES; i++) fresh->current[i] = &smi_no_page;
    return d->bins[tag] = fresh;
}

/* Resets the 32-bit counters so that they never wrap. Under the heap's lock. */
static void smi_slab_fold(smi_page *page) {
    uint32_t freed = page->freed;
    SMI_ADD(&page->folded, freed);
    SMI_STORE(&page->total, page->total - freed);
    SMI_STORE(&page->freed, 0);
    page->trigger = SMI_FOLD_AT;
}

static void smi_queue_append(smi_bins *bins, smi_page *page) {
    smi_page **queue = &bins->queue[page->class_index];
    if (*queue == NULL) {
        *queue = page->next = page->prev = page;
        return;
    }
    page->next = *queue;
    page->prev = (*queue)->prev;
    page->prev->next = page->next->prev = page;
}
static void smi_queue_remove(smi_bins *bins, smi_page *page) {
    smi_page **queue = &bins->queue[page->class_index];
    if (page->next == page) {
        *queue = NULL;
        return;
    }
    page->next->prev = page->prev;
    page->prev->next = page->next;
    if (*queue == page) *queue = page->next;
}

/* An empty page goes back; what it counted stays with its record. The page is on no queue. */
static void smi_slab_release(smi_domain *d, smi_page *page) {
    smi_bins *bins = d->bins[page->tag];
    smi_record *r = smi_record_find(d, page->tag);
    uint64_t ever = page->folded + page->total;
    if (bins->current[page->class_index] == page) bins->current[page->class_index] = &smi_no_page;
    bins->pages[page->class_index]--;
    smi_lock_take(&d->lock);
    smi_page_unlink(d, &r->slabs, page);
    SMI_ADD(&r->alloc_bytes, ever * page->block_size);
    SMI_ADD(&r->alloc_blocks, ever);
    SMI_ADD(&r->free_bytes, ever * page->block_size);
    SMI_ADD(&r->free_blocks, ever);
    d->slab_bytes -= page->bytes;
    smi_event(d, page->bytes);
    smi_lock_give(&d->lock);
    page->owner = 0;
    smi_span_free(d, page);
}

static void smi_slab_emptied(smi_domain *d, smi_page *page) {
    if (d->empty_bytes + page->bytes <= SMI_KEEP_MAX) {
        page->state = SMI_SLAB_EMPTY;
        d->empty_bytes += page->bytes;
        return;
    }
    smi_queue_remove(d->bins[page->tag], page);
    smi_slab_release(d, page);
}

/* freed == trigger: see above. Owner. */
SMI_NOINLINE void smi_slab_event(smi_domain *d, smi_page *page) {
    smi_lock_take(&d->lock);
    smi_slab_fold(page);
    smi_lock_give(&d->lock);
    if (page->state == SMI_SLAB_CURRENT) return;
    if (page->state == SMI_SLAB_FULL) {
        page->state = SMI_SLAB_QUEUED;
        smi_queue_append(d->bins[page->tag], page);
    }
    page->trigger = page->total; /* empty then; in-use blocks that others freed arrive through smi_collect */
    if (page->total == 0) smi_slab_emptied(d, page);
}

/* Counts blocks that came back by another way than sagemem_free's short path. */
static void smi_slab_returned(smi_domain *d, smi_page *page, uint32_t blocks) {
    for (; blocks > 0; blocks--) {
        SMI_ADD(&page->freed, 1);
        if (page->freed == page->trigger) {
            /* The page may go now: that only happens with the last of its blocks. */
            smi_slab_event(d, page);
        }
    }
}

/* Threads the next untouched blocks of a page; false when there are none. */
static bool smi_slab_extend(smi_page *page) {
    uint32_t from = page->limit / page->block_size, n = SMI_THREAD_BYTES / page->block_size + 1;
    if (n > page->capacity - from) n = page->capacity - from;
    if (n == 0) return false;
    page->limit += n * page->block_size;
    for (uint32_t i = from + n; i-- > from;) {
        smi_cell *cell = (smi_cell *)(void *)(page->start + (size_t)i * page->block_size);
        if (smi_watched) smi_cell_push_quiet(page, cell);
        else smi_cell_push(page, cell);
    }
    return true;
}

/* Least bytes of a page with blocks of that size: eight of them, or 16 KiB. */
static size_t smi_slab_least(size_t block_size) {
    size_t bytes = 8 * block_size;
    return bytes < SMI_GRANULE ? (size_t)SMI_GRANULE : (bytes + SMI_GRANULE - 1) & ~(size_t)(SMI_GRANULE - 1);
}

static smi_page *smi_slab_new(smi_domain *d, sagemem_tag tag, unsigned class_index, const char *call) {
    smi_bins *bins = smi_bins_make(d, tag);
    smi_record *r = smi_record_make(d, tag);
    if (bins == NULL || r == NULL) return NULL;
    /* Small first pages: an eighth of what the class has, so that a tag with little pays little. */
    size_t size = smi_class_size(class_index), least = smi_slab_least(size), bytes = least;
    while (bytes < SMI_SLAB_MAX && bins->pages[class_index] >= 8 * (bytes / least)) bytes *= 2;
    bool zeroed;
    smi_page *page = smi_page_create(d, SMI_SLAB, 0, bytes, 1, &zeroed, call);
    if (page == NULL && bytes > least) page = smi_page_create(d, SMI_SLAB, 0, least, 1, &zeroed, call); /* near a limit */
    if (page == NULL) return NULL;
    page->tag = tag;
    page->class_index = (uint16_t)class_index;
    page->block_size = (uint32_t)size;
    page->capacity = (uint16_t)(page->bytes / size);
    page->inverse = UINT64_MAX / size + 1;
    page->key = (uintptr_t)((smi_secret ^ (uint64_t)(uintptr_t)page) * SMI_MIX);
    /* The rest of the page shifts its blocks, or block 0 of every page would fall into the same cache sets. */
    size_t rest = page->bytes - page->capacity * size;
    page->start = page->base + (rest > 0 ? (d->page_count * 64u) % (rest + 1) & ~(size_t)15 : 0);
    page->trigger = SMI_FOLD_AT;
    bins->pages[class_index]++;
    smi_lock_take(&d->lock);
    smi_page_link(d, &r->slabs, page);
    d->slab_bytes += page->bytes;
    smi_event(d, page->bytes);
    smi_lock_give(&d->lock);
    __atomic_store_n(&page->owner, d->fast ? d->owner : 0, __ATOMIC_RELEASE);
    return page;
}

/* A current page with a free block for the class, or NULL with the error set. */
static smi_page *smi_slab_refill(smi_domain *d, sagemem_tag tag, unsigned class_index, const char *call) {
    smi_bins *bins = smi_bins_of(d, tag);
    smi_page *page = bins->current[class_index];
    if (page != &smi_no_page) {
        if (page->cells != NULL || smi_slab_extend(page)) return page;
    }
    smi_page *next = bins->queue[class_index];
    if (next != NULL) {
        smi_queue_remove(bins, next);
        if (next->state == SMI_SLAB_EMPTY) d->empty_bytes -= next->bytes;
    } else {
        next = smi_slab_new(d, tag, class_index, call);
        if (next == NULL) return NULL;
        bins = d->bins[tag];
        page = bins->current[class_index];
    }
    smi_lock_take(&d->lock);
    if (page != &smi_no_page) {
        smi_slab_fold(page);
        page->state = SMI_SLAB_FULL;
        page->trigger = page->capacity / 8u + 1u;
    }
    smi_slab_fold(next);
    next->state = SMI_SLAB_CURRENT;
    smi_event(d, next->bytes);
    smi_lock_give(&d->lock);
    bins->current[class_index] = next;
    if (next->cells == NULL) smi_slab_extend(next);
    return next;
}

static sagemem_status smi_slab_damaged(smi_domain *d, smi_page *page, const void *cell) {
    page->cells = NULL; /* what hung behind the damaged block is leaked: nothing of it can be trusted */
    return smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_alloc",
                     "free block %p (%u bytes, tag '%s', heap '%s') was written to after it was freed, or its neighbour "
                     "overflowed; a SAGEMEM_HEAP_CHECKED heap tells which",
                     cell, page->block_size, sagemem_tag_name(page->tag), d->name);
}

/* A block from a slab page by the long way: watched, shared and zeroing heaps, and after the short path failed. */
static void *smi_slab_alloc(smi_domain *d, size_t size, sagemem_tag tag, const char *call) {
    unsigned class_index = smi_class_of(size);
    smi_page *page = smi_bins_of(d, tag)->current[class_index];
    if (page->cells == NULL) page = smi_slab_refill(d, tag, class_index, call);
    if (page == NULL) return NULL;
    smi_cell *cell = page->cells;
    if (!smi_cell_proves_quiet(page, cell)) {
        smi_slab_damaged(d, page, cell);
        return NULL;
    }
    page->cells = smi_cell_next_quiet(cell);
    SMI_ADD(&page->total, 1);
    smi_pair_quiet(cell, 0, 0); /* no proof any more */
    if (smi_watched) smi_watch_alloc(cell, page->block_size, false);
    return cell;
}

/* Which blocks of a page are free: one bit each. Owner. Returns how many, or -1: a list leads out of the page or is not as
 * long as it says; *damaged is the block where that was seen. */
enum { SMI_SLAB_WORDS = SMI_SLAB_MAX / 16 / 64 };
static int64_t smi_slab_free_map(const smi_page *page, uint64_t *map, const void **damaged) {
    memset(map, 0, SMI_SLAB_WORDS * sizeof *map);
    uint32_t found = 0;
    for (const smi_cell *c = page->cells; c != NULL; c = smi_cell_next_quiet(c)) {
        int64_t i = smi_slab_index(page, c);
        *damaged = c;
        if (i < 0 || smi_bit(map, (size_t)i) || !smi_cell_proves_quiet(page, c)) return -1;
        smi_bits_set(map, (size_t)i, 1);
        found++;
    }
    uint32_t remote = SMI_LOAD_ACQUIRE(&page->remote), count = remote >> 16;
    for (uint32_t at = remote & 0xFFFF; count > 0; count--) {
        if (at == 0 || at > page->capacity || smi_bit(map, at - 1)) return -1;
        *damaged = page->start + (size_t)(at - 1) * page->block_size;
        smi_bits_set(map, at - 1, 1);
        found++;
        at = (uint32_t)(uintptr_t)smi_cell_next_quiet((smi_cell *)(void *)(page->start + (size_t)(at - 1) * page->block_size));
    }
    return found;
}

/* Gives empty pages and the rest of what is kept back. Owner. */
static void smi_domain_trim(smi_domain *d) {
    for (uint32_t t = 0; t < d->bins_count; t++) {
        smi_bins *bins = d->bins[t];
        for (int c = 0; bins != &smi_no_bins && c < SMI_CLASSES; c++) {
            smi_page *current = bins->current[c];
            if (current != &smi_no_page && current->total == current->freed) {
                smi_slab_release(d, current);
            }
            for (smi_page *p = bins->queue[c], *next; p != NULL; p = next) {
                next = p->next == bins->queue[c] ? NULL : p->next;
                if (p->state != SMI_SLAB_EMPTY) continue;
                d->empty_bytes -= p->bytes;
                smi_queue_remove(bins, p);
                smi_slab_release(d, p);
            }
        }
    }
    while (d->spares != NULL) {
        smi_page *page = d->spares;
        d->spares = page->domain_next;
        d->spare_bytes -= page->bytes;
        smi_span_free(d, page);
    }
    SMI_STORE(&d->trim_wanted, false);
}

/* -- Huge blocks: pages of their own; all that is known about one lies in its smi_page. ------------------------ */

static size_t smi_huge_front(const smi_domain *d) { return smi_checked(d) ? (size_t)SMI_HUGE_ZONE : 0; }

static void smi_huge_dress(const smi_domain *d, smi_page *page, size_t size) {
    page->size = size;
    if (!smi_checked(d)) return;
    smi_fill_quiet(page->start - SMI_HUGE_ZONE, SMI_FILL_ZONE, SMI_HUGE_ZONE);
    smi_fill_quiet(page->start + size, SMI_FILL_ZONE, page->bytes - size - (size_t)(page->start - page->base));
}

static void *smi_huge_alloc(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, bool *zeroed,
                            const char *call) {
    size_t front = smi_huge_front(d);
    size_t behind = smi_watched ? (size_t)SMI_RED_ZONE : d->post; /* a tool is to see the end */
    if (front > 0 && alignment > front) front = alignment;
    if (size > SIZE_MAX / 2 - front - behind) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are more than an object can have", size);
        return NULL;
    }
    smi_page *page = smi_page_create(d, SMI_HUGE, front, front + size + behind, alignment, zeroed, call);
    if (page == NULL) return NULL;
    page->tag = tag;
    page->file = site.file;
    page->line = site.line;
    smi_huge_dress(d, page, behind > 0 ? size : page->bytes);
    smi_lock_take(&d->base->lock);
    smi_page_link(d, &d->pages, page);
    smi_count_alloc(d, tag, page->size, 1);
    smi_event(d->base, page->bytes);
    smi_lock_give(&d->base->lock);
    if (smi_watched) smi_watch_alloc(page->start, page->size, *zeroed);
    return page->start;
}

static void smi_huge_free(smi_domain *d, smi_page *page) {
    if (smi_watched) smi_watch_free(page->start, page->size);
    smi_lock_take(&d->base->lock);
    smi_count_free(d, page->tag, page->size, 1);
    smi_page_unlink(d, &d->pages, page);
    smi_event(d->base, page->bytes);
    smi_lock_give(&d->base->lock);
    smi_span_free(d, page);
}

static void smi_huge_recount(smi_domain *d, smi_page *page, size_t size) {
    if (size >= page->size) smi_count_alloc(d, page->tag, size - page->size, 0);
    else smi_count_free(d, page->tag, page->size - size, 0);
    page->size = size;
}

/* The granules behind a block's span, if they are free. Under smi_span_lock, as the next three. */
static char *smi_huge_extend(smi_domain *d, smi_page *page, size_t bytes) {
    smi_region *r = smi_region_of(page->base);
    char *end = page->base + page->bytes;
    size_t at = (size_t)(end - r->base) / SMI_GRANULE, n = (bytes - page->bytes) / SMI_GRANULE;
    if (n > r->granules - at || bytes > SMI_SPAN_MAX) return NULL;
    for (size_t i = at; i < at + n; i++)
        if (smi_bit(r->used, i)) return NULL;
    smi_claim claim;
    uint64_t cached = (uint64_t)smi_region_dirty(r, at, n) * SMI_GRANULE;
    if (!smi_map_prepare(end, bytes - page->bytes) || !smi_charge(&d->budget, bytes - page->bytes, cached, &claim)) return NULL;
    if (!smi_os_commit(end, bytes - page->bytes)) {
        smi_claim_undo(&claim, NULL);
        return NULL;
    }
    smi_region_take(r, at, n);
    smi_map_set(end, bytes - page->bytes, page);
    return page->start;
}

static char *smi_huge_cut(smi_domain *d, smi_page *page, size_t bytes) {
    if (bytes < SMI_CHUNK_BLOCK_MAX) return NULL; /* it is better off in a chunk */
    smi_map_set(page->base + bytes, page->bytes - bytes, smi_obituary(d, page));
    smi_span_to_region(d, page->base + bytes, page->bytes - bytes);
    return page->start;
}

static char *smi_huge_remap(smi_domain *d, smi_page *page, size_t bytes) {
    smi_claim claim;
    if (bytes <= SMI_SPAN_MAX || page->bytes <= SMI_SPAN_MAX) return NULL;
    if (bytes > page->bytes && !smi_charge(&d->budget, bytes - page->bytes, 0, &claim)) return NULL;
    char *start = (char *)smi_os_remap(page->base, page->bytes, bytes);
    bool entered = start != NULL && (start == page->base || smi_map_prepare(start, 1));
    if (start != NULL && !entered) /* it cannot be entered where it lies now: back to the size it had, which cannot fail */
        start = (char *)smi_os_remap(start, bytes, page->bytes);
    if (start != NULL && start != page->base) {
        smi_map_set(page->start, 1, smi_obituary(d, page));
        page->base = page->start = start;
        if (entered || smi_map_prepare(start, 1)) smi_map_set(start, 1, page);
    }
    if (!entered && bytes > page->bytes) smi_claim_undo(&claim, NULL);
    if (entered && bytes < page->bytes) smi_uncharge(&d->budget, page->bytes - bytes, NULL);
    return entered ? start : NULL;
}

/* Changes the span of an unchecked huge block without copying: in place in a region, by mremap elsewhere. NULL: it is as
 * before; what met a limit is not told, the caller then copies or fails. */
static void *smi_huge_resize(smi_domain *d, smi_page *page, size_t size) {
    size_t bytes = smi_span_round(d, size);
    if (bytes == 0 || smi_watched || page->origin == SMI_FROM_SOURCE) return NULL;
    if (bytes == page->bytes) return page->start;
    smi_domain *heap = d->base;
    smi_lock_take(&heap->lock);
    smi_lock_take(&smi_span_lock);
    char *start = page->origin == SMI_FROM_SYSTEM ? smi_huge_remap(d, page, bytes)
                  : bytes > page->bytes           ? smi_huge_extend(d, page, bytes)
                                                  : smi_huge_cut(d, page, bytes);
    if (start != NULL) {
        page->bytes = bytes;
        smi_huge_recount(d, page, bytes);
        smi_budget_peak(&d->budget);
    }
    smi_lock_give(&smi_span_lock);
    if (start != NULL) smi_event(heap, page->bytes);
    smi_lock_give(&heap->lock);
    return start;
}

/* -- System blocks (SAGEMEM_HEAP_SYSTEM): malloc's, with what we know in front, entered in a table of addresses so
 *    that any pointer can be looked up. One lock for all of them: this mode is for finding faults, not for speed. */

typedef struct smi_system_block {
    struct smi_system_block *next, *prev;
    smi_domain *domain;
    void *raw;
    size_t size, charged;
    const char *file;
    int line;
    sagemem_tag tag;
    bool gone; /* freed by another thread during a visit, which takes it off the list */
} smi_system_block;
enum { SMI_SYSTEM_HEADER = 64 };
static void **smi_system_table; /* open addressing, linear probing; addresses of blocks */
static size_t smi_system_slots, smi_system_count;

static size_t smi_system_slot(const void *block) {
    return (size_t)(((uint64_t)(uintptr_t)block * SMI_MIX) >> 20) & (smi_system_slots - 1);
}
static smi_system_block *smi_system_of(const void *block) { return (smi_system_block *)((uintptr_t)block - SMI_SYSTEM_HEADER); }

/* The slot that holds the block, or the free one where it would be. */
static size_t smi_system_seek(const void *block) {
    size_t i = smi_system_slot(block);
    while (smi_system_table[i] != NULL && smi_system_table[i] != block) i = (i + 1) & (smi_system_slots - 1);
    return i;
}

static bool smi_system_grow(void) {
    if (smi_system_count * 2 < smi_system_slots) return true;
    size_t old_slots = smi_system_slots, slots = old_slots > 0 ? old_slots * 2 : 1024;
    void **old = smi_system_table, **table = (void **)smi_meta_alloc(slots * sizeof *table);
    if (table == NULL) return false;
    smi_system_table = table;
    smi_system_slots = slots;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i] != NULL) table[smi_system_seek(old[i])] = old[i];
    smi_meta_free(old, old_slots * sizeof *old);
    return true;
}

/* Closes the gap that a removal leaves in a run of probes (Knuth, TAOCP 3, 6.4, algorithm R). */
static void smi_system_remove(const void *block) {
    size_t gap = smi_system_seek(block);
    for (size_t i = (gap + 1) & (smi_system_slots - 1); smi_system_table[i] != NULL; i = (i + 1) & (smi_system_slots - 1)) {
        size_t home = smi_system_slot(smi_system_table[i]);
        if (((i - home) & (smi_system_slots - 1)) < ((i - gap) & (smi_system_slots - 1))) continue;
        smi_system_table[gap] = smi_system_table[i];
        gap = i;
    }
    smi_system_table[gap] = NULL;
    SMI_SUB(&smi_system_count, 1);
}

static smi_system_block *smi_system_find(const void *block) {
    if (SMI_LOAD(&smi_system_count) == 0) return NULL;
    smi_lock_take(&smi_system_lock);
    bool found = block != NULL && smi_system_slots > 0 && smi_system_table[smi_system_seek(block)] == block;
    smi_lock_give(&smi_system_lock);
    return found ? smi_system_of(block) : NULL;
}

static void *smi_system_alloc(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    if (alignment < 16) alignment = 16;
    if (size > SIZE_MAX / 2 - SMI_SYSTEM_HEADER - alignment) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are more than an object can have", size);
        return NULL;
    }
    size_t bytes = SMI_SYSTEM_HEADER + size + (alignment > 16 ? alignment : 0);
    smi_claim claim;
    if (!smi_charge(&d->budget, bytes, 0, &claim)) {
        smi_fail_limit(call, claim.met, bytes);
        return NULL;
    }
    char *raw = smi_os_fails() ? NULL : (char *)(malloc)(bytes);
    smi_lock_take(&smi_system_lock);
    bool room = raw != NULL && smi_system_grow();
    if (room) {
        char *at = raw + SMI_SYSTEM_HEADER;
        at = (char *)(((uintptr_t)at + alignment - 1) & ~(uintptr_t)(alignment - 1));
        smi_system_block *b = smi_system_of(at);
        b->domain = d;
        b->raw = raw;
        b->size = size;
        b->charged = bytes;
        b->tag = tag;
        b->file = site.file;
        b->line = site.line;
        b->gone = false;
        b->prev = NULL;
        b->next = (smi_system_block *)d->system_blocks;
        if (b->next != NULL) b->next->prev = b;
        d->system_blocks = b;
        smi_system_table[smi_system_seek(at)] = at;
        SMI_ADD(&smi_system_count, 1);
        smi_count_alloc(d, tag, size, 1);
        SMI_ADD(&d->header_bytes, bytes - size);
        raw = at;
    }
    smi_lock_give(&smi_system_lock);
    if (room) {
        smi_budget_peak(&d->budget);
        return raw;
    }
    if (raw == NULL) smi_fail_system(call, bytes);
    (free)(raw);
    smi_claim_undo(&claim, NULL);
    return NULL;
}

/* Off its domain's list. Under smi_system_lock. */
static void smi_system_unlink(smi_system_block *b) {
    if (b->next != NULL) b->next->prev = b->prev;
    if (b->prev != NULL) b->prev->next = b->next;
    else b->domain->system_blocks = b->next;
}

static void smi_system_free(smi_system_block *b) {
    smi_domain *d = b->domain;
    smi_lock_take(&smi_system_lock);
    smi_system_remove((char *)b + SMI_SYSTEM_HEADER);
    smi_count_free(d, b->tag, b->size, 1);
    SMI_SUB(&d->header_bytes, b->charged - b->size);
    smi_uncharge(&d->budget, b->charged, NULL);
    bool visited = d->visits > 0;
    SMI_STORE(&b->gone, true);
    if (!visited) smi_system_unlink(b);
    smi_lock_give(&smi_system_lock);
    if (!visited) (free)(b->raw);
}

/* -- What a pointer is. ------------------------------------------------------------------------------------------ */

typedef struct smi_ref {
    smi_page *page; /* NULL: a system block */
    smi_system_block *system;
    smi_domain *domain;
    char *header; /* chunk */
    uint64_t word;
    size_t size;
    sagemem_tag tag;
    const char *file;
    int line;
} smi_ref;

enum { SMI_WHY = 200 };

/* "block 0x... (64 bytes, tag 'Core/Trees', scope forest 12 of heap 'main', allocated at trees.c:31)" */
static void smi_describe(const smi_ref *ref, const void *block, char *text, size_t size) {
    char scope[SMI_NAME_MAX + 40] = "", site[120] = "";
    const smi_domain *d = ref->domain;
    if (d->base != d) smi_text(scope, sizeof scope, "scope %s %llu of ", d->name, (unsigned long long)d->id);
    if (ref->file != NULL) smi_text(site, sizeof site, ", allocated at %s:%d", ref->file, ref->line);
    smi_text(text, size, "block %p (%zu bytes, tag '%s', %sheap '%s'%s)", block, ref->size, sagemem_tag_name(ref->tag), scope,
             d->base->name, site);
}

static void smi_ref_extra(smi_ref *ref) {
    if (ref->domain->pre == 0) return;
    ref->file = (const char *)(uintptr_t)smi_get(smi_extra_at(ref->header, SMI_X_FILE));
    ref->line = (int)(uint32_t)smi_get(smi_extra_at(ref->header, SMI_X_LINES));
}

static sagemem_status smi_quarantine_damaged(const smi_domain *d, char *header, uint64_t word, size_t at, const char *call) {
    char what[SMI_WHY];
    smi_ref ref;
    memset(&ref, 0, sizeof ref);
    ref.domain = (smi_domain *)(uintptr_t)d;
    ref.header = header;
    ref.tag = smi_word_tag(word);
    ref.size = smi_chunk_size(d, header, word);
    smi_ref_extra(&ref);
    smi_describe(&ref, header + 8, what, sizeof what);
    return smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call, "%s was written to at byte %zu after it was freed", what, at);
}

/* Guards of a live block in a chunk. */
static sagemem_status smi_chunk_intact(const smi_domain *d, const char *header, uint64_t word, char *why, size_t why_size) {
    if (d->pre == 0) return SAGEMEM_OK;
    if (smi_get(smi_extra_at(header, SMI_X_CANARY)) != smi_canary(d, header)) {
        smi_text(why, why_size, "was written to in front of its first byte (underflow)");
        return SAGEMEM_E_CORRUPT;
    }
    if (!smi_checked(d)) return SAGEMEM_OK;
    size_t size = smi_chunk_size(d, header, word), room = (size_t)smi_units(word) * 16 - 8 - d->pre;
    size_t intact = size <= room ? smi_scan_quiet(header + 8 + size, SMI_FILL_ZONE, room - size) : 0;
    if (size <= room && intact == room - size) return SAGEMEM_OK;
    smi_text(why, why_size, "was written to %zu bytes behind its end (overflow)", intact + 1);
    return SAGEMEM_E_CORRUPT;
}

static sagemem_status smi_huge_intact(const smi_page *page, char *why, size_t why_size) {
    if (!smi_checked(page->domain)) return SAGEMEM_OK;
    size_t behind = page->bytes - (size_t)(page->start - page->base) - page->size;
    if (smi_scan_quiet(page->start - SMI_HUGE_ZONE, SMI_FILL_ZONE, SMI_HUGE_ZONE) != SMI_HUGE_ZONE) {
        smi_text(why, why_size, "was written to in front of its first byte (underflow)");
        return SAGEMEM_E_CORRUPT;
    }
    size_t intact = smi_scan_quiet(page->start + page->size, SMI_FILL_ZONE, behind);
    if (intact == behind) return SAGEMEM_OK;
    smi_text(why, why_size, "was written to %zu bytes behind its end (overflow)", intact + 1);
    return SAGEMEM_E_CORRUPT;
}

/* The header of the block that `at` lies in, found from the start of its chunk, or NULL. *before: the one in front of it. */
static char *smi_chunk_walk(const smi_domain *d, const smi_page *page, const char *at, char **before) {
    *before = NULL;
    for (char *h = page->start + d->pre; h - d->pre < smi_chunk_top(d, page);) {
        uint64_t word = smi_get(h);
        if (!smi_word_good(d, h, word) || smi_units(word) == 0) return h; /* damaged: nothing behind it can be told */
        char *next = h + smi_units(word) * 16;
        if (at < next - d->pre) return h;
        *before = h;
        h = next;
    }
    return NULL;
}

/* A block whose word is damaged: what is told of it comes from smi_extra, or it is the block before it that is told. */
static void smi_describe_damaged(smi_ref *ref, char *before, char *text, size_t size) {
    const smi_domain *d = ref->domain;
    char what[SMI_WHY];
    if (d->pre != 0 && smi_get(smi_extra_at(ref->header, SMI_X_CANARY)) == smi_canary(d, ref->header)) {
        uint64_t extra = smi_get(smi_extra_at(ref->header, SMI_X_SIZE));
        ref->tag = (sagemem_tag)(extra >> 48);
        ref->size = (size_t)(extra & SMI_X_SIZE_MASK);
        smi_ref_extra(ref);
        smi_describe(ref, ref->header + 8, what, sizeof what);
        smi_text(text, size, "%s was written to in front of its first byte (underflow)", what);
        return;
    }
    void *damaged = ref->header + 8;
    if (before == NULL) {
        smi_text(text, size, "block %p (the first of a chunk of heap '%s') was written to in front of its first byte (underflow)",
                 damaged, d->base->name);
        return;
    }
    uint64_t word = smi_get(before);
    if (smi_word_state(word) == SMI_FREE || smi_word_state(word) == SMI_APART) {
        smi_text(
            text, size,
            "the word in front of block %p (heap '%s') is damaged: it underflowed, or the free block %p before it was written to "
            "behind its end",
            damaged, d->base->name, (void *)(before + 8));
        return;
    }
    smi_ref first = *ref;
    first.header = before;
    first.word = word;
    first.tag = smi_word_tag(word);
    first.size = smi_chunk_size(d, before, word);
    smi_ref_extra(&first);
    smi_describe(&first, before + 8, what, sizeof what);
    smi_text(text, size, "the word in front of block %p is damaged: %s overflowed, or it underflowed itself", damaged, what);
}

static sagemem_status smi_resolve_dead(const smi_page *page, const void *p, char *text, size_t size) {
    const char *heap = page->kind == SMI_DEAD ? page->name : page->domain->base->name;
    char scope[SMI_NAME_MAX + 24] = "";
    if (page->file != NULL) smi_text(scope, sizeof scope, "scope %s %llu of ", page->file, (unsigned long long)page->id);
    const char *ended = page->kind == SMI_SPARE || page->state ? "has ended" : "gave its pages back";
    if (page->kind == SMI_DEAD && page->tag != SAGEMEM_TAG_SAME && !page->state)
        smi_text(text, size,
                 "%p was freed already: it lies in pages of tag '%s' that %sheap '%s' gave back; look for a second free of it", p,
                 sagemem_tag_name(page->tag), scope, heap);
    else
        smi_text(text, size, "%p is stale: it lies in memory of %sheap '%s', which %s; look for a pointer that outlives it", p,
                 scope, heap, ended);
    return SAGEMEM_E_STALE;
}

static sagemem_status smi_resolve_slab(const smi_page *page, const void *p, smi_ref *ref, char *text, size_t size) {
    char what[SMI_WHY];
    int64_t index = smi_slab_index(page, p);
    ref->tag = page->tag;
    ref->size = page->block_size;
    if (index < 0) {
        uintptr_t offset = (uintptr_t)p - (uintptr_t)page->start;
        bool inside = offset < page->limit;
        smi_describe(ref, inside ? page->start + offset / page->block_size * page->block_size : page->start, what, sizeof what);
        smi_text(text, size,
                 inside ? "%p lies inside %s; only the start of a block can be used"
                        : "%p was never allocated; its page begins with %s",
                 p, what);
        return SAGEMEM_E_FOREIGN;
    }
    const smi_cell *cell = (const smi_cell *)p;
    if (!smi_cell_proves_quiet(page, cell)) return SAGEMEM_OK;
    if (page->domain->owner == smi_self() || page->domain->owner == SMI_ANY) {
        /* The proof may be an accident of the block's contents: look before accusing. */
        uint64_t map[SMI_SLAB_WORDS];
        const void *damaged;
        if (smi_slab_free_map(page, map, &damaged) >= 0 && !smi_bit(map, (size_t)index)) return SAGEMEM_OK;
    }
    smi_describe(ref, p, what, sizeof what);
    smi_text(text, size, "%s was freed already; look for a second free of it", what);
    return SAGEMEM_E_STALE;
}

/* Whether a word was written by a scope of this heap that has ended, one of the last 1024 begun. For messages. */
static bool smi_word_of_ended(const smi_domain *d, const char *header, uint64_t word) {
    const smi_domain *heap = d->base;
    uint64_t begun = heap->scopes_begun, n = begun < 1024 ? begun : 1024;
    smi_state state = smi_word_state(word);
    if (state < SMI_LIVE || state > SMI_QUARANTINED || smi_units(word) == 0 || smi_word_tag(word) > SAGEMEM_TAG_MAX) return false;
    for (; n > 0; n--, begun--)
        if (word >> 40 == smi_guard_of(smi_scope_salt(heap, begun), header, word & SMI_FIELDS)) return true;
    return false;
}

static sagemem_status smi_resolve_chunk(const smi_page *page, const void *p, smi_ref *ref, char *text, size_t size) {
    const smi_domain *d = page->domain;
    char *header = (char *)(uintptr_t)p - 8;
    char what[SMI_WHY], why[80];
    /* Not smi_chunk_top: another thread may be moving it. What lies behind it holds no live word. */
    bool place = ((uintptr_t)p & 15) == 0 && header >= page->start + d->pre && header < page->base + page->bytes - 16;
    uint64_t word = place ? smi_get(header) : 0;
    bool good = place && smi_word_good(d, header, word);
    if (place && !good && smi_word_of_ended(d, header, word)) {
        smi_text(text, size,
                 "block %p (%zu bytes, tag '%s', heap '%s') went with a scope that has ended; look for a pointer that outlives it",
                 p, (size_t)smi_units(word) * 16 - 8 - d->pre, sagemem_tag_name(smi_word_tag(word)), d->base->name);
        return SAGEMEM_E_STALE;
    }
    if (!good) {
        char *before, *in = smi_chunk_walk(d, page, (const char *)p, &before);
        if (in == NULL) {
            smi_text(text, size, "%p was never allocated: it lies in unused memory of heap '%s'", p, d->base->name);
            return SAGEMEM_E_FOREIGN;
        }
        word = smi_get(in);
        good = smi_word_good(d, in, word);
        ref->header = in;
        ref->word = word;
        if (!good) {
            smi_describe_damaged(ref, before, text, size);
            return SAGEMEM_E_CORRUPT;
        }
        ref->tag = smi_word_tag(word);
        ref->size = smi_chunk_size(d, in, word);
        smi_ref_extra(ref);
        smi_describe(ref, in + 8, what, sizeof what);
        bool live = smi_word_state(word) == SMI_LIVE;
        smi_text(text, size, "%p %s %s%s", p, live ? "lies inside" : "lies in freed memory,", what,
                 live ? "; only the start of a block can be used" : "; look for a second free of it");
        return live ? SAGEMEM_E_FOREIGN : SAGEMEM_E_STALE;
    }
    ref->header = header;
    ref->word = word;
    ref->tag = smi_word_tag(word);
    smi_state state = smi_word_state(word);
    if (state == SMI_FREE || state == SMI_APART) {
        ref->size = (size_t)smi_units(word) * 16 - 8 - d->pre; /* more, where it was merged with the one behind it */
        smi_describe(ref, p, what, sizeof what);
        smi_text(text, size, "%s was freed already; look for a second free of it", what);
        return SAGEMEM_E_STALE;
    }
    ref->size = smi_chunk_size(d, header, word);
    smi_ref_extra(ref);
    if (state != SMI_LIVE) {
        smi_describe(ref, p, what, sizeof what);
        const char *file = d->pre != 0 && state == SMI_QUARANTINED
                               ? (const char *)(uintptr_t)smi_get(smi_extra_at(header, SMI_X_FREE_FILE))
                               : NULL;
        int line = file != NULL ? (int)(smi_get(smi_extra_at(header, SMI_X_LINES)) >> 32) : 0;
        if (file != NULL) smi_text(text, size, "%s was freed already, at %s:%d", what, file, line);
        else smi_text(text, size, "%s was freed already; look for a second free of it", what);
        return SAGEMEM_E_STALE;
    }
    sagemem_status status = smi_chunk_intact(d, header, word, why, sizeof why);
    if (status == SAGEMEM_OK) return SAGEMEM_OK;
    smi_describe(ref, p, what, sizeof what);
    smi_text(text, size, "%s %s", what, why);
    return status;
}

/* A pointer into a huge block, past the part that the page map knows: any heap's, by a walk. For messages. */
static const smi_page *smi_find_huge(const smi_domain *d, const char *p) {
    for (; d != NULL; d = d->sibling_next) {
        smi_lock_take((smi_lock *)(uintptr_t)&d->lock);
        const smi_page *found = NULL;
        for (const smi_domain *s = d; s != NULL && found == NULL; s = s->inner)
            for (const smi_page *page = s->pages; page != NULL && found == NULL; page = page->domain_next)
                if (page->kind == SMI_HUGE && p >= page->base && p < page->base + page->bytes) found = page;
        smi_lock_give((smi_lock *)(uintptr_t)&d->lock);
        if (found == NULL && d->children != NULL) found = smi_find_huge(d->children, p);
        if (found != NULL) return found;
    }
    return NULL;
}

/* No page that the map shows: inside a large huge block, in pages that are gone, or never ours. */
static sagemem_status smi_resolve_foreign(const smi_page *page, const void *p, char *text, size_t size) {
    smi_lock_take(&smi_registry_lock);
    const smi_page *huge = smi_process.children != NULL ? smi_find_huge(smi_process.children, (const char *)p) : NULL;
    char heap[SMI_NAME_MAX] = "", scope[SMI_NAME_MAX + 40] = "";
    const void *start = huge != NULL ? huge->start : NULL;
    sagemem_tag tag = huge != NULL ? huge->tag : (sagemem_tag)SAGEMEM_UNTAGGED;
    size_t bytes = huge != NULL ? huge->size : 0;
    if (huge != NULL) smi_text(heap, sizeof heap, "%s", huge->domain->base->name);
    if (huge != NULL && huge->domain->base != huge->domain)
        smi_text(scope, sizeof scope, "scope %s %llu of ", huge->domain->name, (unsigned long long)huge->domain->id);
    smi_lock_give(&smi_registry_lock);
    if (huge == NULL && page != NULL) return smi_resolve_dead(page, p, text, size);
    if (huge != NULL)
        smi_text(text, size, "%p lies inside block %p (%zu bytes, tag '%s', %sheap '%s'); only the start of a block can be used", p,
                 start, bytes, sagemem_tag_name(tag), scope, heap);
    else
        smi_text(
            text, size,
            "%p does not come from sagemem; give it back to what made it (malloc'ed: free; on the stack or static: not at all)", p);
    return SAGEMEM_E_FOREIGN;
}

/* A pointer into the library's own structures: they are multiples of 64 bytes, so a heap's first words can be read. */
static sagemem_status smi_resolve_meta(const void *p, char *text, size_t size) {
    const smi_domain *heap = ((uintptr_t)p & 63) == 0 ? (const smi_domain *)p : NULL;
    if (heap != NULL && heap->magic == (SMI_MAGIC ^ (uintptr_t)heap))
        smi_text(text, size, "%p is no block but heap '%s' itself; end it with sagemem_heap_destroy", p, heap->name);
    else smi_text(text, size, "%p is no block: it lies in the library's own structures (heaps, names)", p);
    return SAGEMEM_E_FOREIGN;
}

/* Fills in ref for a live, undamaged block; otherwise says in `text` what the pointer is. */
static sagemem_status smi_resolve(const void *p, smi_ref *ref, char *text, size_t size) {
    memset(ref, 0, sizeof *ref);
    smi_page *page = smi_lookup(p);
    if (page == NULL || page->kind == SMI_DEAD) {
        smi_system_block *b = smi_system_find(p);
        if (b == NULL) return smi_resolve_foreign(page, p, text, size);
        ref->system = b;
        ref->domain = b->domain;
        ref->size = b->size;
        ref->tag = b->tag;
        ref->file = b->file;
        ref->line = b->line;
        return SAGEMEM_OK;
    }
    ref->page = page;
    ref->domain = page->domain;
    switch (page->kind) {
    case SMI_SLAB: return smi_resolve_slab(page, p, ref, text, size);
    case SMI_CHUNK: return smi_resolve_chunk(page, p, ref, text, size);
    case SMI_SPARE: return smi_resolve_dead(page, p, text, size);
    case SMI_META: return smi_resolve_meta(p, text, size);
    default: break;
    }
    ref->size = page->size;
    ref->tag = page->tag;
    ref->file = page->file;
    ref->line = page->line;
    char what[SMI_WHY], why[80];
    if (p != page->start) {
        smi_describe(ref, page->start, what, sizeof what);
        bool inside = (const char *)p >= page->base && (const char *)p < page->base + page->bytes;
        smi_text(text, size,
                 inside ? "%p lies inside %s; only the start of a block can be used"
                        : "%p does not come from sagemem; it lies in front of %s",
                 p, what);
        return SAGEMEM_E_FOREIGN;
    }
    if (SMI_LOAD(&page->huge_state) != 0) {
        smi_describe(ref, p, what, sizeof what);
        smi_text(text, size, "%s was freed already; look for a second free of it", what);
        return SAGEMEM_E_STALE;
    }
    sagemem_status status = smi_huge_intact(page, why, sizeof why);
    if (status == SAGEMEM_OK) return SAGEMEM_OK;
    smi_describe(ref, p, what, sizeof what);
    smi_text(text, size, "%s %s", what, why);
    return status;
}

/* Like smi_resolve; anything but a live block goes to the fault handler. */
static sagemem_status smi_resolve_or_fault(const void *p, smi_ref *ref, const char *call) {
    char text[SMI_WHY + 40];
    sagemem_status status = smi_resolve(p, ref, text, sizeof text);
    if (SMI_LIKELY(status == SAGEMEM_OK)) {
        SMI_ASSUME(ref->domain != NULL && (ref->page == NULL || ref->page->kind != SMI_CHUNK || ref->header != NULL));
        return SAGEMEM_OK;
    }
    smi_fault(status == SAGEMEM_E_CORRUPT ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status, call, "%s", text);
    return status;
}

/* -- Blocks freed by other threads. A slab block goes to its page's list, the page to its heap's list when it had none;
 *    any other block to its heap's list of blocks. The owner collects on its slow paths, in scopes and checked heaps
 *    before each allocation (so that their peaks are exact). ------------------------------------------------- */

static void smi_remote_slab(smi_page *page, smi_cell *cell) {
    uint32_t index = (uint32_t)smi_slab_index(page, cell) + 1;
    uint32_t old = SMI_LOAD(&page->remote), fresh;
    if (smi_watched) smi_watch_free(cell, page->block_size);
    do {
        smi_pair_quiet(cell, old & 0xFFFF, (uintptr_t)(old & 0xFFFF) ^ (uintptr_t)cell ^ page->key);
        fresh = ((old >> 16) + 1) << 16 | index;
        /* release: the links above are seen by whoever takes the list */
    } while (!SMI_CAS(&page->remote, &old, fresh));
    if (old != 0) return;
    /* The first in the list enters the page. It cannot go before that: the owner takes its list only from there. */
    smi_domain *heap = page->domain;
    smi_page *first = SMI_LOAD(&heap->remote_pages);
    do page->remote_next = first;
    while (!SMI_CAS(&heap->remote_pages, &first, page));
    SMI_STORE(&heap->pending, 1);
}

static void smi_remote_block(smi_domain *heap, void *block) {
    void *first = SMI_LOAD(&heap->remote_blocks);
    do smi_link_put(heap->salt, (char *)block, (const char *)first);
    while (!SMI_CAS(&heap->remote_blocks, &first, block));
    SMI_STORE(&heap->pending, 1);
}

/* Gives back a live block that belongs to another thread. */
static void smi_free_remote(const smi_ref *ref, void *block, const char *call) {
    smi_page *page = ref->page;
    smi_domain *d = ref->domain;
    if (page->kind == SMI_SLAB) {
        smi_remote_slab(page, (smi_cell *)block);
        return;
    }
    bool won;
    if (page->kind == SMI_CHUNK) {
        uint64_t word = ref->word;
        while (!(won = smi_swap(ref->header, word, smi_with_state(word, SMI_REMOTE)))) {
            word = smi_get(ref->header); /* the owner may have marked its neighbour */
            if (smi_word_state(word) != SMI_LIVE) break;
        }
    } else {
        won = __atomic_exchange_n(&page->huge_state, 1u, __ATOMIC_ACQ_REL) == 0;
    }
    if (!won) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call, "block %p (tag '%s', heap '%s') was freed by two threads at once", block,
                  sagemem_tag_name(ref->tag), d->base->name);
        return;
    }
    smi_count_remote(d, ref->tag, ref->size, false);
    if (smi_watched) smi_watch_free(block, ref->size);
    smi_remote_block(d->base, block);
}

static void smi_free_own(const smi_ref *ref, void *block, smi_site site);

static void smi_collect_page(smi_domain *heap, smi_page *page) {
    uint32_t remote = __atomic_exchange_n(&page->remote, 0u, __ATOMIC_ACQ_REL);
    uint32_t count = remote >> 16, at = remote & 0xFFFF, done = 0;
    const void *last = page->start;
    uint64_t seen[SMI_SLAB_WORDS];
    memset(seen, 0, (page->capacity + 63u) / 64u * sizeof *seen);
    while (done < count) {
        if (at == 0 || at > page->capacity || smi_bit(seen, at - 1)) {
            if (at > 0 && at <= page->capacity) last = page->start + (size_t)(at - 1) * page->block_size;
            smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_free",
                      "block %p (%u bytes, tag '%s', heap '%s') was freed twice by other threads, or written to after that", last,
                      page->block_size, sagemem_tag_name(page->tag), heap->name);
            break;
        }
        smi_bits_set(seen, at - 1, 1);
        smi_cell *cell = (smi_cell *)(void *)(page->start + (size_t)(at - 1) * page->block_size);
        at = (uint32_t)(uintptr_t)smi_cell_next_quiet(cell);
        last = cell;
        if (smi_watched) smi_cell_push_quiet(page, cell);
        else smi_cell_push(page, cell);
        done++;
    }
    smi_slab_returned(heap, page, done);
}

/* Takes what other threads gave back. Owner. */
static void smi_collect(smi_domain *heap) {
    /* First, so that whoever adds to a list from now on is not overlooked. */
    if (SMI_LOAD(&heap->pending)) __atomic_store_n(&heap->pending, 0, __ATOMIC_SEQ_CST);
    smi_page *page =
        SMI_LOAD(&heap->remote_pages) != NULL ? __atomic_exchange_n(&heap->remote_pages, (smi_page *)NULL, __ATOMIC_ACQ_REL) : NULL;
    while (page != NULL) {
        smi_page *next = page->remote_next; /* read before the page's list is taken: then it may be entered again */
        smi_collect_page(heap, page);
        page = next;
    }
    char *block = SMI_LOAD(&heap->remote_blocks) != NULL
                      ? (char *)__atomic_exchange_n(&heap->remote_blocks, (void *)NULL, __ATOMIC_ACQ_REL)
                      : NULL;
    while (block != NULL) {
        char *next = smi_link_at(heap->salt, block);
        smi_ref ref;
        memset(&ref, 0, sizeof ref);
        ref.page = smi_lookup(block);
        ref.domain = ref.page->domain;
        bool chunk = ref.page->kind == SMI_CHUNK;
        if (chunk) {
            ref.header = block - 8;
            ref.word = smi_get(ref.header);
        }
        if (SMI_UNLIKELY(next == SMI_BROKEN ||
                         (chunk && (!smi_word_good(ref.domain, ref.header, ref.word) || smi_word_state(ref.word) != SMI_REMOTE)))) {
            smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_free",
                      "block %p (tag '%s', heap '%s'), freed by another thread, was written to after that or freed once more",
                      (void *)block,
                      !chunk                                            ? sagemem_tag_name(ref.page->tag)
                      : smi_word_good(ref.domain, ref.header, ref.word) ? sagemem_tag_name(smi_word_tag(ref.word))
                                                                        : "unknown",
                      heap->name);
            break; /* this one and what hung behind it are leaked: nothing of them can be trusted */
        }
        if (chunk) {
            ref.word = smi_with_state(ref.word, SMI_LIVE);
            smi_set(ref.header, ref.word);
            ref.tag = smi_word_tag(ref.word);
            ref.size = smi_chunk_size(ref.domain, ref.header, ref.word);
            if (smi_checked(ref.domain) && ref.size < 8) /* the link lay in its red zone */
                smi_fill_quiet(block + ref.size, SMI_FILL_ZONE, 8 - ref.size);
        } else {
            ref.tag = ref.page->tag;
            ref.size = ref.page->size;
        }
        smi_site nowhere = {NULL, 0};
        smi_lock_take(&heap->lock); /* a reader sees the block in neither list, never in both */
        smi_count_remote(ref.domain, ref.tag, ref.size, true);
        smi_lock_give(&heap->lock);
        if (smi_watched) smi_watch_alloc(block, ref.size, true); /* the tools know it as freed: they will hear so once more */
        smi_free_own(&ref, block, nowhere);
        block = next;
    }
    if (SMI_LOAD(&heap->trim_wanted)) smi_domain_trim(heap);
}

SMI_INLINE bool smi_pending(const smi_domain *heap) { return SMI_LOAD(&heap->pending) != 0; }

/* -- Allocation -------------------------------------------------------------------------------------------------- */

static sagemem_status smi_heap_wrong(const sagemem_heap *heap, const char *call) {
    const smi_page *page = smi_lookup(heap);
    bool readable = page != NULL && page->kind == SMI_META;
    if (readable && heap->magic == (SMI_ENDED ^ (uintptr_t)heap))
        return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call, "heap '%s' has ended; look for a pointer to it that lives on",
                         heap->name);
    if (!readable || heap->magic != (SMI_MAGIC ^ (uintptr_t)heap))
        return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                         "%p is not a heap; pass what sagemem_heap_create returned, or NULL for the thread's own",
                         (const void *)heap);
    return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
                     "heap '%s' belongs to another thread; use a heap of this thread, sagemem_heap_adopt, or SAGEMEM_HEAP_SHARED",
                     heap->name);
}

static void smi_use_begin(smi_domain *heap) {
    if (SMI_LOAD(&heap->user) != smi_self()) {
        smi_lock_take(&heap->use_lock);
        SMI_STORE(&heap->user, smi_self());
    }
    heap->uses++;
}
static void smi_use_end(smi_domain *heap) {
    if (--heap->uses > 0) return;
    SMI_STORE(&heap->user, (uintptr_t)0);
    smi_lock_give(&heap->use_lock);
}

/* The heap, if the calling thread may change it now; a shared one is locked. NULL: the fault handler was called. */
static smi_domain *smi_enter(sagemem_heap *heap, const char *call) {
    if (heap == NULL) heap = smi_mine.heap != NULL ? smi_mine.heap : sagemem_heap_default();
    if (heap == NULL) return NULL;
    if (SMI_LIKELY(smi_lookup(heap) != NULL && heap->magic == (SMI_MAGIC ^ (uintptr_t)heap))) {
        uintptr_t owner = SMI_LOAD(&heap->owner);
        if (SMI_LIKELY(owner == smi_self())) return heap;
        if (owner == SMI_ANY) {
            smi_use_begin(heap);
            return heap;
        }
    }
    smi_heap_wrong(heap, call);
    return NULL;
}
static void smi_leave(smi_domain *heap) {
    if (SMI_LOAD(&heap->owner) == SMI_ANY) smi_use_end(heap);
}

/* Whether a (tag, size) with few bytes in this heap has earned slab pages: by two pages' worth of live blocks in chunks,
 * or by being one of the few that most allocations are for. A hash counts; its collisions only make that come sooner. */
SMI_INLINE smi_rare *smi_rare_of(const smi_domain *d, sagemem_tag tag, size_t size) {
    return &d->rare[((uint32_t)tag * 2654435761u ^ smi_class_of(size) * 40503u) >> 7 & (SMI_RARE - 1)];
}

static void smi_rare_count(smi_domain *d, sagemem_tag tag, size_t size) {
    smi_rare *rare = smi_rare_of(d, tag, size);
    if (rare->live < UINT16_MAX) rare->live++;
    if (rare->recent < UINT16_MAX) rare->recent++;
    if (++d->rare_total % SMI_RARE_PERIOD != 0) return;
    for (int i = 0; i < SMI_RARE; i++) d->rare[i].recent /= 2;
}

/* A slab heap's small block: from a slab page if the class has one or has earned one, else from a chunk. */
static void *smi_small_alloc(smi_domain *d, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    unsigned class_index = smi_class_of(size);
    size_t in_chunk = ((size + 8 + 15) & ~(size_t)15) - 8, least = smi_slab_least(smi_class_size(class_index));
    if (smi_bins_of(d, tag)->pages[class_index] == 0) {
        const smi_rare *rare = smi_rare_of(d, tag, in_chunk);
        if (rare->live * smi_class_size(class_index) < 2 * least && rare->recent < SMI_RARE_PERIOD / 64) {
            void *block = smi_chunk_alloc(d, 16, size, tag, site, call);
            if (block == NULL) return NULL;
            size_t usable = smi_chunk_size(d, (char *)block - 8, smi_get((char *)block - 8));
            if (usable <= SMI_SMALL_MAX) smi_rare_count(d, tag, usable);
            return block;
        }
    }
    return smi_slab_alloc(d, size, tag, call);
}

static void *smi_domain_alloc_paid(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, bool *zeroed,
                                   const char *call) {
    smi_domain *heap = d->base;
    *zeroed = false;
    if (smi_os_fails()) {
        smi_fail_system(call, size);
        return NULL;
    }
    if (smi_pending(heap)) smi_collect(heap);
    if (size >= 65536 && alignment < 64) alignment = 64;
    bool small = d->slab && size <= SMI_SMALL_MAX && alignment <= 16;
    if (!smi_records_ready(d, tag)) return NULL;
    if ((heap->flags & SAGEMEM_HEAP_SYSTEM) != 0) return smi_system_alloc(d, alignment, size, tag, site, call);
    if (small) return smi_small_alloc(d, size, tag, site, call);
    if (size <= SMI_CHUNK_BLOCK_MAX && alignment <= SMI_CHUNK_BLOCK_MAX / 4)
        return smi_chunk_alloc(d, alignment, size, tag, site, call);
    return smi_huge_alloc(d, alignment, size, tag, site, zeroed, call);
}

static void *smi_domain_alloc(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, bool *zeroed,
                              const char *call) {
    smi_mine.paying = &d->budget;
    void *block = smi_domain_alloc_paid(d, alignment, size, tag, site, zeroed, call);
    smi_mine.paying = NULL;
    return block;
}

typedef struct smi_reclaimer {
    const char *name;
    int priority;
    sagemem_reclaim_fn fn;
    void *ctx;
} smi_reclaimer;
static smi_reclaimer smi_reclaimers[SMI_RECLAIMERS];
static uint32_t smi_reclaimer_count;

static void smi_domain_release_kept(smi_domain *heap);

/* One more attempt at making room after a failure; *step counts them. False: nothing is left to try. No lock is held. */
static bool smi_reclaim(smi_domain *heap, uint32_t *step, uint64_t wanted) {
    sagemem_status status = smi_mine.error.status;
    if ((status != SAGEMEM_E_LIMIT && status != SAGEMEM_E_NOMEM) || smi_mine.reclaiming) return false;
    if (*step == 0) {
        *step = 1;
        if (heap != NULL && smi_enter(heap, "reclaim") != NULL) {
            smi_domain_release_kept(heap);
            smi_leave(heap);
        }
        smi_lock_take(&smi_span_lock);
        smi_regions_purge(0, true);
        smi_lock_give(&smi_span_lock);
        return true;
    }
    sagemem_error before = smi_mine.error;
    for (;;) {
        smi_lock_take(&smi_registry_lock);
        uint32_t i = *step - 1;
        smi_reclaimer next = {NULL, 0, NULL, NULL};
        if (i < smi_reclaimer_count) next = smi_reclaimers[i];
        smi_lock_give(&smi_registry_lock);
        if (next.fn == NULL) break;
        ++*step;
        smi_mine.reclaiming = true;
        uint64_t got = next.fn(next.ctx, wanted);
        smi_mine.reclaiming = false;
        if (got > 0) return true;
    }
    smi_mine.error = before;
    return false;
}

static void smi_pressure_look(void);

/* Adds to the message of a failure what the memory was wanted for. */
static void smi_fail_for(size_t size, sagemem_tag tag) {
    sagemem_error *error = &smi_mine.error;
    size_t length = strlen(error->message);
    if (error->status == SAGEMEM_E_LIMIT || error->status == SAGEMEM_E_NOMEM)
        smi_text(error->message + length, sizeof error->message - length, " (for %zu bytes, tag '%s')", size,
                 sagemem_tag_name(tag));
}

/* Everything that the short paths do not do. The block comes from domain `into` of the heap, NULL: its innermost scope. */
SMI_NOINLINE void *smi_alloc_slow(sagemem_heap *heap, smi_domain *into, size_t alignment, size_t size, sagemem_tag tag,
                                  smi_site site, bool zero, const char *call) {
    if (SMI_UNLIKELY(tag > SAGEMEM_TAG_MAX)) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named",
                 tag, SAGEMEM_TAG_USER_MAX);
        return NULL;
    }
    for (uint32_t step = 0;;) {
        smi_domain *entered = smi_enter(heap, call);
        if (entered == NULL) return NULL;
        bool zeroed, abort_on_nomem = (entered->flags & SAGEMEM_HEAP_ABORT_ON_NOMEM) != 0;
        zero |= (entered->flags & SAGEMEM_HEAP_ZERO) != 0;
        smi_domain *d = into != NULL ? into : entered->top;
        void *block = smi_domain_alloc(d, alignment, size, tag, site, &zeroed, call);
        if (block != NULL && zero && !zeroed)
            memset(block, 0, (entered->flags & SAGEMEM_HEAP_ZERO) != 0 ? sagemem_size(block) : size);
        smi_leave(entered);
        if (block != NULL) {
            smi_pressure_look();
            return block;
        }
        if (smi_reclaim(entered, &step, size)) continue;
        smi_fail_for(size, tag);
        if (abort_on_nomem && smi_mine.error.status != SAGEMEM_E_ARGUMENT) {
            smi_log(SAGEMEM_LOG_ERROR, "%s: %zu bytes for tag '%s': %s", call, size, sagemem_tag_name(tag), smi_mine.error.message);
            abort();
        }
        return NULL;
    }
}

/* The short path: the thread's own heap, no scope open, a block in the current slab page. NULL: the long way. */
SMI_INLINE void *smi_alloc_fast(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (SMI_UNLIKELY(heap == NULL || SMI_LOAD(&heap->quick) != smi_self())) return NULL;
    if (SMI_UNLIKELY(size > SMI_SMALL_MAX || tag >= heap->bins_count)) return NULL;
    smi_page *page = heap->bins[tag]->current[smi_class_of(size)];
    smi_cell *cell = page->cells;
    if (SMI_UNLIKELY(cell == NULL || !smi_cell_proves(page, cell))) return NULL;
    page->cells = cell->next;
    cell->proof = 0;
    SMI_ADD(&page->total, 1);
    return cell;
}

/* The short path of a scope: the room at the end of its chunk. NULL: the long way. */
SMI_INLINE void *smi_alloc_bump(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (SMI_UNLIKELY(heap == NULL || SMI_LOAD(&heap->owner) != smi_self())) return NULL; /* it may be no heap at all */
    smi_domain *d = heap->top;
    if (SMI_UNLIKELY(SMI_LOAD(&d->quick_bump) != smi_self() || size > SMI_CHUNK_BLOCK_MAX / 8 || tag > SAGEMEM_TAG_MAX ||
                     smi_pending(heap)))
        return NULL;
    smi_group *group = SMI_LOAD(&d->group[tag / SMI_GROUP]);
    uint32_t units = ((uint32_t)size + 8 + 15) / 16;
    units += units < 2;
    char *header = d->bump_at;
    if (SMI_UNLIKELY(group == NULL || (size_t)(d->bump_end - header) < units * 16u ||
                     (units <= SMI_UNITS_APART && d->lists[units] != NULL)))
        return NULL;
    d->bump_at = header + units * 16u;
    SMI_STORE((smi_u64 *)(void *)header, smi_word(d, header, units, tag, SMI_LIVE));
    smi_record *r = &group->record[tag % SMI_GROUP];
    smi_record_touch(d, r, smi_record_bytes(r)); /* a scope is exact */
    SMI_ADD(&d->sum, units * 16u - 8);
    SMI_ADD(&r->alloc_bytes, units * 16u - 8);
    SMI_ADD(&r->alloc_blocks, 1);
    return header + 8;
}

/* Apart, so that the first short path has no registers to save for it. */
SMI_NOINLINE void *smi_alloc_else(sagemem_heap *heap, size_t size, sagemem_tag tag, smi_site site, bool zero, const char *call) {
    void *block = smi_alloc_bump(heap, size, tag);
    if (SMI_UNLIKELY(block == NULL)) return smi_alloc_slow(heap, NULL, 16, size, tag, site, zero, call);
    if (zero) memset(block, 0, size);
    return block;
}

SMI_INLINE void *smi_alloc(sagemem_heap *heap, size_t size, sagemem_tag tag, smi_site site, bool zero, const char *call) {
    void *block = smi_alloc_fast(heap, size, tag);
    if (SMI_UNLIKELY(block == NULL)) return smi_alloc_else(heap, size, tag, site, zero, call);
    if (zero) memset(block, 0, size);
    return block;
}

/* -- Free -------------------------------------------------------------------------------------------------------- */

/* Gives back a live block of the calling thread's heap (or of a shared one that it has locked). */
static void smi_free_own(const smi_ref *ref, void *block, smi_site site) {
    smi_domain *d = ref->domain;
    smi_page *page = ref->page;
    uint64_t word;
    switch (page->kind) {
    case SMI_SLAB:
        if (smi_watched) {
            smi_watch_free(block, page->block_size);
            smi_cell_push_quiet(page, (smi_cell *)block);
        } else {
            smi_cell_push(page, (smi_cell *)block);
        }
        smi_slab_returned(d, page, 1);
        break;
    case SMI_CHUNK:
        word = smi_get(ref->header);                 /* its neighbour may have changed since ref was taken */
        if (!d->exact && ref->size >= SMI_GRANULE) { /* as much as a page: the peak may be right before this */
            smi_lock_take(&d->lock);
            smi_event(d, ref->size);
            smi_lock_give(&d->lock);
        }
        if (d->rare != NULL && ref->size <= SMI_SMALL_MAX) {
            smi_rare *rare = smi_rare_of(d, ref->tag, ref->size);
            if (rare->live > 0) rare->live--;
        }
        smi_chunk_forget(d, ref->header, word);
        if (smi_checked(d)) smi_quarantine_enter(d, ref->header, word, site);
        else smi_chunk_free(d, page, ref->header, word);
        break;
    default: smi_huge_free(d, page); break;
    }
}

SMI_NOINLINE void smi_free_slow(void *block, smi_site site, const char *call) {
    if (block == NULL) return;
    smi_ref ref;
    smi_page *page = smi_lookup(block);
    /* A shared heap is locked before its block is looked at: another thread may be changing the page. */
    smi_domain *heap = page != NULL && page->kind >= SMI_SLAB && page->kind <= SMI_HUGE ? page->domain->base : NULL;
    bool shared = heap != NULL && SMI_LOAD(&heap->owner) == SMI_ANY;
    if (shared) smi_use_begin(heap);
    char text[SMI_WHY + 40];
    sagemem_status status = smi_resolve(block, &ref, text, sizeof text);
    if (status != SAGEMEM_OK) {
        if (shared) smi_use_end(heap);
        bool damaged = status == SAGEMEM_E_CORRUPT;
        if (site.file != NULL)
            smi_fault(damaged ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status, call, "%s (freed at %s:%d)", text, site.file,
                      site.line);
        else smi_fault(damaged ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status, call, "%s", text);
        return;
    }
    SMI_ASSUME(ref.domain != NULL);
    if (ref.system != NULL) smi_system_free(ref.system);
    else if (shared || SMI_LOAD(&ref.domain->base->owner) == smi_self()) smi_free_own(&ref, block, site);
    else smi_free_remote(&ref, block, call);
    if (shared) smi_use_end(heap);
}

/* The short path of a scope; false: the long way. */
SMI_INLINE bool smi_free_bump(smi_page *page, void *block) {
    SMI_ASSUME(block != NULL);
    smi_domain *d = page->domain;
    char *header = (char *)block - 8;
    if (SMI_LOAD(&d->quick_bump) != smi_self()) return false;
    if (((uintptr_t)block & 15) != 0 || header < page->start || header >= smi_chunk_top(d, page)) return false;
    uint64_t word = SMI_LOAD((smi_u64 *)(void *)header);
    if (!smi_word_good(d, header, word) || smi_word_state(word) != SMI_LIVE) return false;
    smi_count_free_here(d, smi_record_of(d, smi_word_tag(word)), smi_units(word) * 16 - 8, 1);
    smi_chunk_free(d, page, header, word);
    return true;
}

SMI_INLINE void smi_free(void *block, smi_site site, const char *call) {
    smi_page *page = smi_lookup(block);
    if (SMI_UNLIKELY(page == NULL || SMI_LOAD(&page->owner) != smi_self())) {
        if (page == NULL || page->kind != SMI_CHUNK || !smi_free_bump(page, block)) smi_free_slow(block, site, call);
        return;
    }
    smi_cell *cell = (smi_cell *)block;
    uintptr_t offset = (uintptr_t)block - (uintptr_t)page->start;
    if (SMI_UNLIKELY(offset >= page->limit || (uint64_t)offset * page->inverse >= page->inverse || smi_cell_proves(page, cell))) {
        smi_free_slow(block, site, call);
        return;
    }
    smi_cell_push(page, cell);
    SMI_ADD(&page->freed, 1);
    if (SMI_UNLIKELY(page->freed == page->trigger)) smi_slab_event(page->domain, page);
}

/* -- Objects: what the layers below make from a heap. Each belongs to the scope that is open when it is made, or to the
 *    heap; all it ever takes comes from there; and it ends with it, newest first. A deferred clean-up is one, too. The
 *    structures lie in the library's own memory, which stays readable: a call on an object that has ended finds it so. */

typedef struct smi_object_kind {
    const char *name;                   /* "pool" */
    size_t size;                        /* of the structure that begins with an smi_object */
    void (*end_fn)(smi_object *object); /* gives back all that the object has, but its structure; runs once */
    size_t (*check_fn)(const smi_object *object, const char *call); /* walks it: the number damaged, each logged; or NULL */
} smi_object_kind;

static const smi_site smi_nowhere = {NULL, 0};

/* A zeroed structure of that kind, in the list of the heap's innermost scope. NULL: the error is set. Leaves a shared heap
 * locked, as smi_object_enter does: smi_object_leave. */
static smi_object *smi_object_create(sagemem_heap *heap, const smi_object_kind *kind, const char *name, const char *call) {
    smi_domain *h = smi_enter(heap, call);
    if (h == NULL) return NULL;
    smi_domain *d = h->top;
    SMI_ASSUME(d != NULL);
    const char *interned = name != NULL && name[0] != '\0' ? smi_intern(name) : NULL;
    smi_object *o = NULL;
    smi_mine.paying = &d->budget;
    if (smi_os_fails()) smi_fail_system(call, kind->size);
    else if (name == NULL || name[0] == '\0' || interned != NULL) o = (smi_object *)smi_meta_alloc(kind->size);
    smi_mine.paying = NULL;
    if (o == NULL) {
        smi_leave(h);
        return NULL;
    }
    o->kind = kind;
    o->name = interned;
    o->domain = d;
    o->older = d->objects;
    if (o->older != NULL) o->older->newer = o;
    d->objects = o;
    return o;
}

/* The object is as its heap's owner left it, and the calling thread may use it now; a shared heap is locked. False: the
 * fault handler was called. */
SMI_FOR_LAYERS bool smi_object_enter(const void *object, const smi_object_kind *kind, const char *call) {
    const smi_object *o = (const smi_object *)object;
    const smi_page *page = smi_lookup(o);
    if (page == NULL || page->kind != SMI_META || ((uintptr_t)o & 63) != 0 || o->kind != kind) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call, "%p is no %s; pass what the call that makes one returned", object,
                  kind->name);
        return false;
    }
    smi_domain *heap = o->domain->base;
    if (heap == &smi_process) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call, "the %s%s%s has ended, or the scope or heap that it was made in",
                  kind->name, o->name != NULL ? " " : "", o->name != NULL ? o->name : "");
        return false;
    }
    uintptr_t owner = SMI_LOAD(&heap->owner);
    if (SMI_LIKELY(owner == smi_self())) return true;
    if (owner != SMI_ANY) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
                  "the %s%s%s belongs to heap '%s' of another thread; use one of this thread, or hand the heap over with "
                  "sagemem_heap_adopt",
                  kind->name, o->name != NULL ? " " : "", o->name != NULL ? o->name : "", heap->name);
        return false;
    }
    smi_use_begin(heap);
    return true;
}
static void smi_object_leave(const smi_object *o) { smi_leave(o->domain->base); }

/* Ends an object of the calling thread: it gives back what it has, and so does its list. Not in between enter and leave. */
static void smi_object_end(smi_object *o) {
    smi_domain *d = o->domain;
    if (o->newer != NULL) o->newer->older = o->older;
    else d->objects = o->older;
    if (o->older != NULL) o->older->newer = o->newer;
    o->kind->end_fn(o);
    o->domain = &smi_process;
    smi_meta_free(o, o->kind->size);
}

/* All of a domain. What an end_fn makes there ends as well. */
static void smi_objects_end(smi_domain *d) {
    while (d->objects != NULL) smi_object_end(d->objects);
}

/* A block for the object, from its own domain, whatever scope is open. Freed by smi_free, resized by smi_realloc. */
SMI_FOR_LAYERS void *smi_object_alloc(const smi_object *o, size_t alignment, size_t size, sagemem_tag tag, bool zero,
                                      const char *call) {
    return smi_alloc_slow(o->domain->base, o->domain, alignment, size, tag, smi_nowhere, zero, call);
}

static size_t smi_objects_check(const smi_domain *d, const char *call) {
    size_t damaged = 0;
    for (const smi_object *o = d->objects; o != NULL; o = o->older)
        if (o->kind->check_fn != NULL) damaged += o->kind->check_fn(o, call);
    return damaged;
}

/* Bytes of mapped files, for the statistics of the object's heap. Any thread may read; the owner writes. */
SMI_FOR_LAYERS void smi_object_mapped(const smi_object *o, uint64_t now, uint64_t before) {
    SMI_ADD(&o->domain->base->mapped, now - before);
}

/* -- Scopes ------------------------------------------------------------------------------------------------------ */

typedef struct smi_cleanup {
    smi_object object;
    void (*fn)(void *ctx);
    void *ctx;
} smi_cleanup;
static void smi_cleanup_end(smi_object *o) {
    smi_cleanup *c = (smi_cleanup *)o;
    c->fn(c->ctx);
}
static const smi_object_kind smi_cleanup_kind = {"clean-up", sizeof(smi_cleanup), smi_cleanup_end, NULL};

/* What is reported and checked of all live blocks of a domain. `visit` sees a ref whose block is at `block`. */
typedef void (*smi_visit_fn)(void *ctx, const smi_ref *ref, void *block);

static void smi_visit_slab(smi_domain *d, smi_page *page, smi_visit_fn visit, void *ctx) {
    uint64_t map[SMI_SLAB_WORDS];
    const void *damaged;
    if (smi_slab_free_map(page, map, &damaged) < 0) return; /* damaged: sagemem_heap_check says so */
    for (uint32_t i = 0; i < page->limit / page->block_size; i++) {
        if (smi_bit(map, i)) continue;
        smi_ref ref;
        memset(&ref, 0, sizeof ref);
        ref.page = page;
        ref.domain = d;
        ref.size = page->block_size;
        ref.tag = page->tag;
        visit(ctx, &ref, page->start + (size_t)i * page->block_size);
    }
}

static void smi_visit_chunk(smi_domain *d, smi_page *page, smi_visit_fn visit, void *ctx) {
    for (char *h = page->start + d->pre; h - d->pre < smi_chunk_top(d, page);) {
        uint64_t word = smi_get(h);
        if (!smi_word_good(d, h, word) || smi_units(word) == 0) return;
        char *next = h + smi_units(word) * 16;
        if (smi_word_state(word) == SMI_LIVE) {
            smi_ref ref;
            memset(&ref, 0, sizeof ref);
            ref.page = page;
            ref.domain = d;
            ref.header = h;
            ref.word = word;
            ref.size = smi_chunk_size(d, h, word);
            ref.tag = smi_word_tag(word);
            smi_ref_extra(&ref);
            visit(ctx, &ref, h + 8);
        }
        h = next;
    }
}

/* Other threads may free blocks meanwhile: those stay on the list until the visit is over. */
static void smi_visit_system(smi_domain *d, smi_visit_fn visit, void *ctx) {
    if (d->system_blocks == NULL) return;
    smi_lock_take(&smi_system_lock);
    d->visits++;
    smi_lock_give(&smi_system_lock);
    for (smi_system_block *b = (smi_system_block *)d->system_blocks; b != NULL; b = b->next) {
        if (SMI_LOAD(&b->gone)) continue;
        smi_ref ref;
        memset(&ref, 0, sizeof ref);
        ref.system = b;
        ref.domain = d;
        ref.size = b->size;
        ref.tag = b->tag;
        ref.file = b->file;
        ref.line = b->line;
        visit(ctx, &ref, (char *)b + SMI_SYSTEM_HEADER);
    }
    smi_lock_take(&smi_system_lock);
    d->visits--;
    for (smi_system_block *b = (smi_system_block *)d->system_blocks, *next; b != NULL && d->visits == 0; b = next) {
        next = b->next;
        if (!b->gone) continue;
        smi_system_unlink(b);
        (free)(b->raw);
    }
    smi_lock_give(&smi_system_lock);
}

/* Every live block of one domain. Owner. */
static void smi_visit_domain(smi_domain *d, smi_visit_fn visit, void *ctx) {
    for (smi_page *page = d->pages, *next; page != NULL; page = next) {
        next = page->domain_next;
        if (page->kind == SMI_CHUNK) {
            smi_visit_chunk(d, page, visit, ctx);
        } else if (SMI_LOAD(&page->huge_state) == 0) {
            smi_ref ref;
            memset(&ref, 0, sizeof ref);
            ref.page = page;
            ref.domain = d;
            ref.size = page->size;
            ref.tag = page->tag;
            ref.file = page->file;
            ref.line = page->line;
            visit(ctx, &ref, page->start);
        }
    }
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&d->group[g]) != NULL && i < SMI_GROUP; i++)
            for (smi_page *page = d->group[g]->record[i].slabs; page != NULL; page = page->domain_next)
                smi_visit_slab(d, page, visit, ctx);
    smi_visit_system(d, visit, ctx);
}

static size_t smi_domain_check(smi_domain *d, const char *call);

static void smi_forget_visit(void *ctx, const smi_ref *ref, void *block) {
    (void)ctx;
    if (ref->system == NULL) smi_watch_free(block, ref->size);
}

/* Tools hear that the blocks are gone; the short way would not name them. */
static void smi_domain_forget(smi_domain *d) {
    if (smi_watched) smi_visit_domain(d, smi_forget_visit, NULL);
    for (smi_system_block *b = (smi_system_block *)d->system_blocks, *next; b != NULL; b = next) {
        next = b->next;
        smi_system_free(b);
    }
}

/* A scope's pages leave it: chunks are kept for the next scope up to a bound, the rest goes. */
static void smi_scope_drop_pages(smi_domain *scope) {
    smi_domain *heap = scope->base;
    smi_lock_take(&heap->lock);
    smi_page *page = scope->pages;
    scope->pages = NULL;
    for (smi_page *p = page; p != NULL; p = p->domain_next) heap->page_count--;
    smi_lock_give(&heap->lock);
    scope->chunk = NULL;
    scope->bump_at = scope->bump_end = NULL;
    for (smi_page *next; page != NULL; page = next) {
        next = page->domain_next;
        bool keep = page->kind == SMI_CHUNK && heap->spare_bytes + page->bytes <= SMI_KEEP_MAX && !heap->ending;
        if (!keep) {
            smi_span_free(scope, page);
            continue;
        }
        smi_uncharge(&scope->budget, page->bytes, &heap->budget); /* the heap goes on holding it */
        page->kind = SMI_SPARE;
        page->file = scope != heap ? scope->name : NULL;
        page->id = scope->id;
        page->domain = heap;
        page->domain_next = heap->spares; /* newest, so largest, first */
        heap->spares = page;
        heap->spare_bytes += page->bytes;
    }
}

/* The heap's totals take over what the scope counted; what was left in it is freed now. Under the heap's lock. */
static void smi_scope_fold(smi_domain *scope) {
    for (uint32_t g = 0; g < SMI_LOAD(&scope->groups_end); g++) {
        for (int i = 0; SMI_LOAD_ACQUIRE(&scope->group[g]) != NULL && i < SMI_GROUP; i++) {
            const smi_record *r = &scope->group[g]->record[i];
            if (r->alloc_blocks == 0) continue;
            sagemem_tag tag = (sagemem_tag)(g * SMI_GROUP + (unsigned)i);
            if (scope->chain != NULL) {
                if (smi_record_blocks(r) == 0) continue; /* system blocks: other threads may be counting above right now */
                smi_count_free(scope->chain, tag, smi_record_bytes(r), smi_record_blocks(r));
                continue;
            }
            smi_record *above = smi_record_find(scope->base, tag); /* made with the scope's: see smi_records_ready */
            SMI_ADD(&above->alloc_bytes, r->alloc_bytes);
            SMI_ADD(&above->alloc_blocks, r->alloc_blocks);
            SMI_ADD(&above->free_bytes, r->alloc_bytes);
            SMI_ADD(&above->free_blocks, r->alloc_blocks);
        }
    }
}

static void smi_domain_dispose(smi_domain *d);

/* To be called when what it depends on has changed. */
static void smi_heap_quick(smi_domain *h) {
    uintptr_t owner = h->fast ? SMI_LOAD(&h->owner) : 0;
    SMI_STORE(&h->quick, h->top == h ? owner : 0);
    for (smi_domain *scope = h->top; scope != h; scope = scope->outer)
        SMI_STORE(&scope->quick_bump, scope->chain == NULL ? owner : 0);
}

/* Ends the innermost scope of a heap; E_CORRUPT: it had damaged blocks, and has ended all the same. */
static sagemem_status smi_scope_end(smi_domain *heap) {
    sagemem_status status = SAGEMEM_OK;
    smi_domain *scope = heap->top;
    smi_objects_end(scope);
    smi_collect(heap);
    if (smi_checked(scope) && smi_domain_check(scope, "sagemem_scope_end") > 0) status = SAGEMEM_E_CORRUPT;
    scope->ending = true;
    scope->quarantine_first = scope->quarantine_last = NULL;
    scope->duration_ns = smi_os_now_ns() - scope->began_ns;
    smi_domain_forget(scope); /* system blocks are counted as they go, so before what is left is folded */
    smi_lock_take(&heap->lock);
    smi_publish_end(heap, scope);
    smi_scope_fold(scope);
    scope->outer->inner = NULL;
    heap->top = scope->outer;
    smi_heap_quick(heap);
    SMI_SUB(&heap->scopes, 1);
    smi_domain *old = heap->ended;
    heap->ended = scope;
    smi_lock_give(&heap->lock);
    smi_scope_drop_pages(scope);
    if (old != NULL && heap->unused != NULL) smi_domain_dispose(old);
    else if (old != NULL) heap->unused = old;
    return status;
}

/* A scope structure, empty, every list and record as new. */
static smi_domain *smi_scope_fresh(smi_domain *heap) {
    smi_domain *s = heap->unused;
    heap->unused = NULL;
    if (s == NULL) return (smi_domain *)smi_meta_alloc(sizeof *s);
    for (uint32_t g = 0; g < SMI_LOAD(&s->groups_end); g++)
        if (SMI_LOAD_ACQUIRE(&s->group[g]) != NULL) memset(s->group[g], 0, sizeof *s->group[g]);
    memset(s, 0, offsetof(struct sagemem_heap, groups_end));
    return s;
}

SAGEMEM_API sagemem_status sagemem_scope_begin(sagemem_heap *heap, const char *kind, uint64_t id) {
    const char *call = "sagemem_scope_begin";
    if (kind == NULL || kind[0] == '\0')
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "a scope needs a kind: pass text such as \"forest\"");
    smi_domain *h = smi_enter(heap, call);
    if (h == NULL) return smi_mine.error.status;
    const char *name = h->ended != NULL && strncmp(h->ended->name, kind, SMI_NAME_MAX - 1) == 0 ? h->ended->name : NULL;
    if (name == NULL) name = smi_intern(kind);
    bool fails = name != NULL && smi_os_fails();
    smi_domain *s = name != NULL && !fails ? smi_scope_fresh(h) : NULL;
    if (s == NULL) {
        if (fails) smi_fail_system(call, sizeof *s);
        smi_leave(h);
        return smi_mine.error.status;
    }
    smi_domain *outer = h->top;
    SMI_ASSUME(outer != NULL);
    s->base = h;
    s->outer = outer;
    s->chain = outer != h || h->exact ? outer : NULL;
    s->name = name;
    s->id = id;
    s->flags = h->flags;
    s->pre = h->pre;
    s->post = h->post;
    s->bump = s->exact = true;
    s->top = s;
    s->budget.up = &outer->budget;
    s->salt = smi_scope_salt(h, ++h->scopes_begun); /* so that what an ended scope left behind is no block of this one */
    s->epoch = 1;
    s->began_ns = smi_os_now_ns();
    smi_lock_take(&h->lock);
    outer->inner = s;
    h->top = s;
    smi_heap_quick(h);
    SMI_ADD(&h->scopes, 1);
    smi_lock_give(&h->lock);
    smi_leave(h);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_scope_end(sagemem_heap *heap) {
    const char *call = "sagemem_scope_end";
    smi_domain *h = smi_enter(heap, call);
    if (h == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    if (h->top != h) status = smi_scope_end(h);
    else if (h->ended != NULL)
        status = smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call,
                           "no scope is open in heap '%s'; the last one, %s %llu, has ended already; pair each begin with one end",
                           h->name, h->ended->name, (unsigned long long)h->ended->id);
    else
        status = smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call,
                           "no scope was begun in heap '%s'; call sagemem_scope_begin first", h->name);
    smi_leave(h);
    return status;
}

SAGEMEM_API sagemem_status sagemem_scope_defer(sagemem_heap *heap, void (*cleanup)(void *ctx), void *ctx) {
    const char *call = "sagemem_scope_defer";
    if (cleanup == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "cleanup is NULL: pass the function to call when the scope ends");
    smi_domain *h = smi_enter(heap, call);
    if (h == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    smi_cleanup *c = NULL;
    if (h->top == h)
        status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no scope is open in heap '%s'; call sagemem_scope_begin first", h->name);
    else if ((c = (smi_cleanup *)smi_object_create(h, &smi_cleanup_kind, NULL, call)) == NULL) status = smi_mine.error.status;
    if (c != NULL) {
        c->fn = cleanup;
        c->ctx = ctx;
        smi_object_leave(&c->object);
    }
    smi_leave(h);
    return status;
}

SAGEMEM_API sagemem_status sagemem_scope_limit(sagemem_heap *heap, uint64_t bytes) {
    const char *call = "sagemem_scope_limit";
    smi_domain *h = smi_enter(heap, call);
    if (h == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    if (h->top == h)
        status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no scope is open in heap '%s'; call sagemem_scope_begin first", h->name);
    else SMI_STORE(&h->top->budget.limit, bytes);
    smi_leave(h);
    return status;
}

/* The allocator's ctx: heap and tag, in a record that lives as long as the heap. */
typedef struct smi_hand {
    struct smi_hand *next;
    sagemem_heap *heap;
    sagemem_tag tag;
} smi_hand;

/* -- Heaps ------------------------------------------------------------------------------------------------------- */

static smi_domain *smi_heaps_ended, **smi_heaps_ended_last = &smi_heaps_ended; /* structures of ended heaps, oldest first */
static uint32_t smi_heaps_ended_count;
enum { SMI_HEAPS_REMEMBERED = 64 }; /* so that a call on an ended heap can be told from one on a new heap */
static sagemem_heap_desc smi_default_desc;
static sagemem_source smi_default_source;

/* Frees a domain's structure and records. */
static void smi_domain_dispose(smi_domain *d) {
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++) smi_meta_free(d->group[g], sizeof(smi_group));
    for (uint32_t t = 0; t < d->bins_count; t++)
        if (d->bins[t] != &smi_no_bins) smi_meta_free(d->bins[t], sizeof(smi_bins));
    smi_meta_free(d->bins, d->bins_count * sizeof *d->bins);
    smi_meta_free(d->rare, SMI_RARE * sizeof *d->rare);
    for (smi_hand *hand = d->hands, *next; hand != NULL; hand = next) {
        next = hand->next;
        smi_meta_free(hand, sizeof *hand);
    }
    if (d->base != d) {
        smi_meta_free(d, sizeof *d);
        return;
    }
    const char *name = d->name;
    memset(d, 0, sizeof *d);
    d->magic = SMI_ENDED ^ (uintptr_t)d;
    d->name = name;
    smi_lock_take(&smi_registry_lock);
    *smi_heaps_ended_last = d;
    smi_heaps_ended_last = &d->sibling_next;
    smi_heaps_ended_count++;
    smi_lock_give(&smi_registry_lock);
}

/* Under smi_registry_lock. */
static smi_domain *smi_heap_structure(void) {
    smi_domain *d = smi_heaps_ended;
    if (smi_heaps_ended_count < SMI_HEAPS_REMEMBERED) return (smi_domain *)smi_meta_alloc(sizeof *d);
    smi_heaps_ended = d->sibling_next;
    if (smi_heaps_ended == NULL) smi_heaps_ended_last = &smi_heaps_ended;
    smi_heaps_ended_count--;
    memset(d, 0, sizeof *d);
    return d;
}

static bool smi_heap_may_be_fast(const smi_domain *h) {
    return h->slab && (h->flags & (SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_SHARED)) == 0 && !smi_watched && smi_mine.fail_at == 0;
}

static sagemem_status smi_desc_check(const sagemem_heap_desc *desc, const char *call) {
    uint32_t known = SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_ABORT_ON_NOMEM | SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SITES |
                     SAGEMEM_HEAP_SYSTEM | SAGEMEM_HEAP_SHARED;
    if ((desc->flags & ~known) != 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "flags 0x%x are unknown; use SAGEMEM_HEAP_*",
                        (unsigned)(desc->flags & ~known));
    const sagemem_source *source = desc->source;
    if (source != NULL &&
        (source->map_fn == NULL || source->unmap_fn == NULL || (source->page_size & (source->page_size - 1)) != 0))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "the source needs map_fn, unmap_fn and a page_size that is a power of two (0: the system's)");
    const sagemem_heap *parent = desc->parent;
    if (parent != NULL && (smi_lookup(parent) == NULL || parent->magic != (SMI_MAGIC ^ (uintptr_t)parent)))
        return smi_fail(SAGEMEM_E_STALE, 0, call, "the parent %p is no live heap; a parent must outlive its children",
                        (const void *)parent);
    return SAGEMEM_OK;
}

static void *smi_source_system_map(void *ctx, size_t size, size_t alignment);

static void smi_heap_init(smi_domain *h, const sagemem_heap_desc *desc, const char *name) {
    h->base = h->top = h;
    h->name = name;
    h->flags = desc->flags;
    h->purge_delay_ms = desc->purge_delay_ms != 0 ? desc->purge_delay_ms : 1000;
    h->parent = desc->parent != NULL ? desc->parent : &smi_process;
    h->budget.up = &h->parent->budget;
    h->budget.limit = desc->limit;
    if (desc->source != NULL && desc->source->map_fn != smi_source_system_map) {
        h->has_source = true;
        h->source = *desc->source;
        if (h->source.page_size == 0) h->source.page_size = smi_os_page;
    }
    bool extra = (desc->flags & (SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SITES)) != 0;
    h->pre = extra ? SMI_EXTRA : 0;
    h->post = (desc->flags & SAGEMEM_HEAP_CHECKED) != 0 ? SMI_RED_ZONE : 0;
    h->slab = !extra && (desc->flags & SAGEMEM_HEAP_SYSTEM) == 0 && (!h->has_source || h->source.page_size <= SMI_SLAB_MAX);
    h->exact = !h->slab;
    h->fast = smi_heap_may_be_fast(h);
    h->salt = ((smi_secret += SMI_MIX) ^ (uintptr_t)h) * SMI_MIX;
    h->epoch = 1;
    smi_lock_init(&h->lock);
    smi_lock_init(&h->use_lock);
    h->magic = SMI_MAGIC ^ (uintptr_t)h;
    SMI_STORE_RELEASE(&h->owner, (desc->flags & SAGEMEM_HEAP_SHARED) != 0 ? SMI_ANY : smi_self());
    smi_heap_quick(h);
}

static sagemem_heap *smi_heap_create(const sagemem_heap_desc *desc, bool is_default, const char *call) {
    static const sagemem_heap_desc defaults = {NULL, NULL, 0, NULL, 0, 0};
    smi_start();
    if (desc == NULL) desc = &defaults;
    if (smi_desc_check(desc, call) != SAGEMEM_OK) return NULL;
    if (smi_os_fails()) {
        smi_fail_system(call, sizeof(smi_domain));
        return NULL;
    }
    smi_os_watch_thread();
    smi_lock_take(&smi_registry_lock);
    const char *name = smi_intern(desc->name != NULL && desc->name[0] != '\0' ? desc->name : "heap");
    smi_domain *h = name != NULL ? smi_heap_structure() : NULL;
    smi_rare *rare = h != NULL ? (smi_rare *)smi_meta_alloc(SMI_RARE * sizeof *rare) : NULL;
    if (rare != NULL) {
        smi_heap_init(h, desc, name);
        h->is_default = is_default;
        if (h->slab) h->rare = rare;
        else smi_meta_free(rare, SMI_RARE * sizeof *rare);
        smi_account_begin(h->parent);
        h->sibling_next = h->parent->children;
        if (h->sibling_next != NULL) h->sibling_next->sibling_prev = h;
        h->parent->children = h;
    }
    smi_lock_give(&smi_registry_lock);
    if (rare == NULL && h != NULL) smi_meta_free(h, sizeof *h);
    return rare != NULL ? h : NULL;
}

SAGEMEM_API sagemem_heap *sagemem_heap_create(const sagemem_heap_desc *desc) {
    return smi_heap_create(desc, false, "sagemem_heap_create");
}

/* Every heap below `parent` in turn, parents first; NULL starts. Under smi_registry_lock. */
static smi_domain *smi_heap_after(smi_domain *parent, smi_domain *h) {
    if (h == NULL) return parent->children;
    if (h->children != NULL) return h->children;
    while (h != parent && h->sibling_next == NULL) h = h->parent;
    return h != parent ? h->sibling_next : NULL;
}

/* The pages' own copy of the owner, for the short path of free. */
static void smi_heap_set_owner(smi_domain *h, uintptr_t owner) {
    SMI_STORE_RELEASE(&h->owner, owner);
    smi_heap_quick(h);
    for (uint32_t g = 0; g < SMI_LOAD(&h->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&h->group[g]) != NULL && i < SMI_GROUP; i++)
            for (smi_page *page = SMI_LOAD_ACQUIRE(&h->group[g])->record[i].slabs; page != NULL; page = page->domain_next)
                SMI_STORE(&page->owner, h->fast ? owner : 0);
}

SAGEMEM_API sagemem_heap *sagemem_heap_default(void) {
    if (smi_mine.heap != NULL) return smi_mine.heap;
    smi_start();
    smi_os_watch_thread();
    smi_lock_take(&smi_registry_lock);
    smi_domain *h = NULL;
    while ((h = smi_heap_after(&smi_process, h)) != NULL)
        if (h->is_default && !h->frozen && SMI_LOAD_ACQUIRE(&h->owner) == 0) break; /* a dead thread's */
    if (h != NULL) smi_heap_set_owner(h, smi_self());
    sagemem_heap_desc desc = smi_default_desc;
    smi_lock_give(&smi_registry_lock);
    if (h == NULL) h = smi_heap_create(&desc, true, "sagemem_heap_default");
    return smi_mine.heap = h;
}

SAGEMEM_API sagemem_status sagemem_heap_default_configure(const sagemem_heap_desc *desc) {
    static const sagemem_heap_desc defaults = {NULL, NULL, 0, NULL, 0, 0};
    const char *call = "sagemem_heap_default_configure";
    smi_start();
    if (desc == NULL) desc = &defaults;
    sagemem_status status = smi_desc_check(desc, call);
    if (status != SAGEMEM_OK) return status;
    smi_lock_take(&smi_registry_lock);
    const char *name = desc->name != NULL ? smi_intern(desc->name) : NULL;
    if (desc->name != NULL && name == NULL) {
        status = smi_mine.error.status;
    } else {
        smi_default_desc = *desc;
        smi_default_desc.name = name;
        if (desc->source != NULL) {
            smi_default_source = *desc->source;
            smi_default_desc.source = &smi_default_source;
        }
    }
    smi_lock_give(&smi_registry_lock);
    return status;
}

SAGEMEM_API sagemem_status sagemem_heap_get_desc(const sagemem_heap *heap, sagemem_heap_desc *out) {
    const char *call = "sagemem_heap_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_heap_desc");
    if (heap == NULL) heap = sagemem_heap_default();
    if (heap == NULL) return smi_mine.error.status;
    if (smi_lookup(heap) == NULL || heap->magic != (SMI_MAGIC ^ (uintptr_t)heap)) return smi_heap_wrong(heap, call);
    out->name = heap->name;
    out->parent = heap->parent != &smi_process ? heap->parent : NULL;
    out->limit = SMI_LOAD(&heap->budget.limit);
    out->source = heap->has_source ? &heap->source : NULL;
    out->flags = heap->flags;
    out->purge_delay_ms = heap->purge_delay_ms;
    return SAGEMEM_OK;
}

/* All slab pages of a record, out of the heap. */
static void smi_record_clear(smi_domain *h, smi_record *r, smi_page **out) {
    smi_lock_take(&h->lock);
    uint64_t bytes = 0, blocks = 0;
    while (r->slabs != NULL) {
        smi_page *page = r->slabs;
        uint64_t ever = page->folded + page->total;
        bytes += ever * page->block_size;
        blocks += ever;
        smi_page_unlink(h, &r->slabs, page);
        page->owner = 0;
        page->next = *out;
        *out = page;
    }
    SMI_ADD(&r->alloc_bytes, bytes);
    SMI_ADD(&r->alloc_blocks, blocks);
    SMI_ADD(&r->free_bytes, smi_record_bytes(r));
    SMI_ADD(&r->free_blocks, smi_record_blocks(r));
    smi_lock_give(&h->lock);
}

/* Everything in a heap goes: scopes with their clean-ups, blocks, pages. Its totals stay. */
static void smi_heap_clear(smi_domain *h) {
    while (h->top != h) smi_scope_end(h);
    smi_objects_end(h);
    smi_collect(h);
    if (smi_checked(h)) smi_domain_check(h, h->ending ? "sagemem_heap_destroy" : "sagemem_heap_reset");
    smi_lock_take(&h->lock);
    smi_publish(h, h->exact && smi_peak_of(h) > h->peak_shown);
    smi_lock_give(&h->lock);
    smi_page *gone = NULL;
    for (smi_domain *left; (left = h->left) != NULL;) {
        /* Scopes that a dead thread left open. */
        smi_lock_take(&h->lock);
        h->left = left->sibling_next;
        smi_lock_give(&h->lock);
        while (left->inner != NULL) left = left->inner;
        for (smi_domain *outer; left != h; left = outer) {
            outer = left->outer;
            smi_domain_forget(left);
            smi_lock_take(&h->lock);
            smi_scope_fold(left);
            if (outer != h) outer->inner = NULL;
            smi_lock_give(&h->lock);
            smi_scope_drop_pages(left);
            smi_domain_dispose(left);
        }
    }
    smi_domain_forget(h);
    for (uint32_t t = 0; t < SMI_LOAD(&h->groups_end) * SMI_GROUP; t++) {
        smi_record *r = smi_record_find(h, (sagemem_tag)t);
        if (r == NULL) continue;
        if (h->exact) smi_count_free(h, (sagemem_tag)t, smi_record_bytes(r), smi_record_blocks(r));
        else smi_record_clear(h, r, &gone);
    }
    for (uint32_t t = 0; t < h->bins_count; t++)
        for (int c = 0; h->bins[t] != &smi_no_bins && c < SMI_CLASSES; c++) {
            h->bins[t]->current[c] = &smi_no_page;
            h->bins[t]->queue[c] = NULL;
            h->bins[t]->pages[c] = 0;
        }
    for (smi_page *next; gone != NULL; gone = next) {
        next = gone->next;
        smi_span_free(h, gone);
    }
    smi_scope_drop_pages(h);
    memset(h->lists, 0, sizeof h->lists);
    h->list_map[0] = h->list_map[1] = 0;
    if (h->rare != NULL) memset(h->rare, 0, SMI_RARE * sizeof *h->rare);
    h->salt = (h->salt ^ ++h->scopes_begun) * SMI_MIX; /* what was in the heap is no block of it any more */
    h->quarantine_first = h->quarantine_last = NULL;
    h->quarantine_bytes = h->empty_bytes = h->chunk_bytes = h->slab_bytes = 0;
    SMI_STORE(&h->header_bytes, 0);
    h->salt = (h->salt ^ ++h->scopes_begun) * SMI_MIX; /* what lies in the pages now is no block of it any more */
    smi_domain_trim(h);
    smi_lock_take(&h->lock);
    smi_publish(h, false);
    smi_lock_give(&h->lock);
}

/* A heap that the calling thread may end: its own, a shared one, or one whose owner has ended. */
static smi_domain *smi_enter_to_end(sagemem_heap *heap, const char *call) {
    if (heap == NULL) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call,
                  "the heap is NULL; name the one that is meant: sagemem_heap_default() is the thread's own");
        return NULL;
    }
    bool alive = smi_lookup(heap) != NULL && heap->magic == (SMI_MAGIC ^ (uintptr_t)heap);
    if (alive && !heap->frozen && SMI_LOAD_ACQUIRE(&heap->owner) == 0) smi_heap_set_owner(heap, smi_self());
    return smi_enter(heap, call);
}

/* The parent's totals take over what the heap counted. Under smi_registry_lock. */
static void smi_heap_bequeath(smi_domain *h) {
    smi_domain *parent = h->parent;
    smi_lock_take(&parent->lock);
    for (uint32_t t = 0; t < SMI_LOAD(&h->groups_end) * SMI_GROUP; t++) {
        const smi_record *r = smi_record_find(h, (sagemem_tag)t);
        smi_record *above =
            r != NULL && (r->alloc_blocks > 0 || SMI_LOAD(&r->gone_blocks) > 0) ? smi_record_make(parent, (sagemem_tag)t) : NULL;
        if (above == NULL) continue;
        SMI_ATOMIC_ADD(&above->gone_bytes, r->alloc_bytes + SMI_LOAD(&r->gone_bytes));
        SMI_ATOMIC_ADD(&above->gone_blocks, r->alloc_blocks + SMI_LOAD(&r->gone_blocks));
    }
    smi_lock_give(&parent->lock);
}

SAGEMEM_API void sagemem_heap_destroy(sagemem_heap *heap) {
    const char *call = "sagemem_heap_destroy";
    smi_domain *h = smi_enter_to_end(heap, call);
    if (h == NULL) return;
    if (SMI_LOAD(&h->children) != NULL) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call, "heap '%s' has child heaps ('%s'); destroy those first", h->name,
                  h->children->name);
        smi_leave(h);
        return;
    }
    while (h->top != h) smi_scope_end(h);
    smi_objects_end(h);
    smi_leave(h);
    if (h == smi_mine.heap) smi_mine.heap = NULL;
    h->ending = true;
    smi_heap_clear(h);
    smi_lock_take(&smi_registry_lock);
    smi_heap_bequeath(h);
    if (h->sibling_next != NULL) h->sibling_next->sibling_prev = h->sibling_prev;
    if (h->sibling_prev != NULL) h->sibling_prev->sibling_next = h->sibling_next;
    else h->parent->children = h->sibling_next;
    smi_lock_give(&smi_registry_lock);
    smi_uncharge(&h->budget, SMI_LOAD(&h->budget.reserved), NULL);
    SMI_STORE(&h->quick, (uintptr_t)0);
    SMI_STORE_RELEASE(&h->owner, (uintptr_t)0);
    if (h->ended != NULL) smi_domain_dispose(h->ended);
    if (h->unused != NULL) smi_domain_dispose(h->unused);
    smi_domain_dispose(h);
}

SAGEMEM_API void sagemem_heap_reset(sagemem_heap *heap) {
    smi_domain *h = smi_enter_to_end(heap, "sagemem_heap_reset");
    if (h == NULL) return;
    smi_heap_clear(h);
    smi_leave(h);
}

SAGEMEM_API sagemem_status sagemem_heap_adopt(sagemem_heap *heap) {
    const char *call = "sagemem_heap_adopt";
    if (heap == NULL) return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call, "the heap is NULL; name the one to adopt");
    if (smi_lookup(heap) == NULL || heap->magic != (SMI_MAGIC ^ (uintptr_t)heap)) return smi_heap_wrong(heap, call);
    smi_os_watch_thread();
    smi_lock_take(&smi_registry_lock);
    uintptr_t owner = SMI_LOAD_ACQUIRE(&heap->owner);
    bool busy = (heap->is_default && owner != 0 && owner != smi_self()) || heap->frozen;
    if (!busy && owner != SMI_ANY && owner != smi_self()) {
        heap->is_default = false;
        smi_heap_set_owner(heap, smi_self());
    }
    smi_lock_give(&smi_registry_lock);
    if (!busy) return SAGEMEM_OK;
    return smi_fail(
        SAGEMEM_E_BUSY, 0, call,
        heap->frozen ? "heap '%s' belonged to a thread that did not survive fork; it cannot be used any more"
                     : "heap '%s' is the default heap of a thread that lives; make a heap with sagemem_heap_create to hand it over",
        heap->name);
}

/* -- Threads and fork -------------------------------------------------------------------------------------------- */

/* The calling thread ends: clean-ups of its open scopes run, its blocks stay, its heaps are nobody's. */
static void smi_thread_ends(void) {
    smi_domain *h = NULL;
    for (;;) {
        smi_lock_take(&smi_registry_lock);
        h = smi_heap_after(&smi_process, NULL);
        while (h != NULL && SMI_LOAD(&h->owner) != smi_self()) h = smi_heap_after(&smi_process, h);
        smi_lock_give(&smi_registry_lock);
        if (h == NULL) break;
        for (smi_domain *s = h->top; s != h; s = s->outer) smi_objects_end(s);
        smi_lock_take(&smi_registry_lock);
        smi_lock_take(&h->lock);
        if (h->inner != NULL) {
            h->inner->orphan = true;
            SMI_STORE(&h->inner->quick_bump, (uintptr_t)0);
            h->inner->sibling_next = h->left;
            h->left = h->inner;
            h->inner = NULL;
            h->top = h;
            SMI_STORE(&h->scopes, 0);
        }
        smi_heap_set_owner(h, 0);
        smi_lock_give(&h->lock);
        smi_lock_give(&smi_registry_lock);
    }
    smi_mine.heap = NULL;
}

static void smi_fork_locks(bool take) {
    smi_lock *last[] = {&smi_stats_lock, &smi_system_lock, &smi_span_lock, &smi_names_lock, &smi_meta_lock};
    if (take) smi_lock_take(&smi_registry_lock);
    for (smi_domain *h = smi_heap_after(&smi_process, NULL); h != NULL; h = smi_heap_after(&smi_process, h)) {
        if (take && SMI_LOAD(&h->owner) == SMI_ANY) smi_use_begin(h);
        if (take) smi_lock_take(&h->lock);
        else smi_lock_give(&h->lock);
        if (!take && SMI_LOAD(&h->owner) == SMI_ANY) smi_use_end(h);
    }
    for (size_t i = 0; i < sizeof last / sizeof last[0]; i++) {
        if (take) smi_lock_take(last[i]);
        else smi_lock_give(last[i]);
    }
    if (!take) smi_lock_give(&smi_registry_lock);
}
static void smi_fork_before(void) { smi_fork_locks(true); }
static void smi_fork_parent(void) { smi_fork_locks(false); }
static void smi_watch_forked(void);
static void smi_sources_forked(void);
static bool smi_source_in_file(const smi_domain *heap);

/* In the child only the forking thread lives. Heaps of the others may have stopped halfway through a change: their
 * blocks stay valid and may be freed, but nobody takes these heaps over. */
static void smi_fork_child(void) {
    smi_lock *locks[] = {&smi_registry_lock, &smi_stats_lock, &smi_system_lock, &smi_span_lock, &smi_names_lock, &smi_meta_lock};
    for (size_t i = 0; i < sizeof locks / sizeof locks[0]; i++) smi_lock_init(locks[i]);
    smi_os_forks++;
    smi_lock_init(&smi_process.lock);
    for (smi_domain *h = smi_heap_after(&smi_process, NULL); h != NULL; h = smi_heap_after(&smi_process, h)) {
        smi_lock_init(&h->lock);
        smi_lock_init(&h->use_lock);
        h->user = 0;
        h->uses = 0;
        uintptr_t owner = SMI_LOAD(&h->owner);
        if ((owner == smi_self() || owner == SMI_ANY || owner == 0) && !smi_source_in_file(h)) continue;
        h->frozen = true;
        smi_heap_set_owner(h, 0);
    }
    smi_sources_forked();
    smi_watch_forked();
}

static void smi_init(void) {
    smi_os_page = smi_os_page_size();
    smi_secret = smi_os_random();
    smi_watched = smi_os_watched();
    smi_lock_init(&smi_process.lock);
    smi_process.base = smi_process.top = &smi_process;
    smi_process.name = "process";
    smi_process.epoch = 1;
    smi_process.magic = SMI_MAGIC ^ (uintptr_t)&smi_process;
    smi_process.bump = true;
    for (int i = 0; i < SMI_CLASSES; i++) smi_no_bins.current[i] = &smi_no_page;
    smi_os_at_thread_exit(smi_thread_ends);
    smi_os_at_fork(smi_fork_before, smi_fork_parent, smi_fork_child);
}

/* -- Checking walker --------------------------------------------------------------------------------------------- */

typedef struct smi_check_ctx {
    const char *call; /* for the fault handler; NULL: damage is logged only */
    size_t damaged;
} smi_check_ctx;

static void smi_damage(smi_check_ctx *c, const char *text) {
    c->damaged++;
    if (c->call != NULL) smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, c->call, "%s", text);
    else smi_log(SAGEMEM_LOG_ERROR, "sagemem_heap_check: %s", text);
}

static void smi_check_slab(smi_check_ctx *c, const smi_page *page) {
    uint64_t map[SMI_SLAB_WORDS];
    const void *damaged = NULL;
    int64_t found = smi_slab_free_map(page, map, &damaged);
    uint32_t used = SMI_LOAD(&page->total) - SMI_LOAD(&page->freed), threaded = page->limit / page->block_size;
    int64_t remote = SMI_LOAD_ACQUIRE(&page->remote) >> 16;
    if (found >= 0 && found - remote + used == threaded) return;
    char text[SMI_WHY];
    smi_text(text, sizeof text,
             "free block %p (%u bytes, tag '%s', heap '%s') was written to after it was freed, or the block before it overflowed",
             found < 0 ? damaged : (const void *)page->start, page->block_size, sagemem_tag_name(page->tag), page->domain->name);
    smi_damage(c, text);
}

static void smi_check_chunk(smi_check_ctx *c, smi_domain *d, smi_page *page) {
    char text[SMI_WHY + 120], what[SMI_WHY + 80], why[80], *before = NULL;
    for (char *h = page->start + d->pre; h - d->pre < smi_chunk_top(d, page);) {
        uint64_t word = smi_get(h);
        smi_ref ref;
        memset(&ref, 0, sizeof ref);
        ref.domain = d;
        ref.header = h;
        if (!smi_word_good(d, h, word) || smi_units(word) == 0) {
            smi_describe_damaged(&ref, before, what, sizeof what);
            smi_text(text, sizeof text, "%s; what lies behind it was not checked", what);
            smi_damage(c, text);
            return;
        }
        ref.tag = smi_word_tag(word);
        smi_state state = smi_word_state(word);
        if (state == SMI_LIVE || state == SMI_QUARANTINED) {
            ref.size = smi_chunk_size(d, h, word);
            smi_ref_extra(&ref);
            sagemem_status status = smi_chunk_intact(d, h, word, why, sizeof why);
            size_t at =
                state == SMI_QUARANTINED && status == SAGEMEM_OK ? smi_scan_quiet(h + 8, SMI_FILL_FREED, ref.size) : ref.size;
            if (at < ref.size) smi_text(why, sizeof why, "was written to at byte %zu after it was freed", at);
            if (status != SAGEMEM_OK || at < ref.size) {
                smi_describe(&ref, h + 8, what, sizeof what);
                smi_text(text, sizeof text, "%s %s", what, why);
                smi_damage(c, text);
            }
        }
        if (state == SMI_FREE || state == SMI_APART) {
            bool end = state == SMI_APART || smi_get(h - d->pre + smi_units(word) * 16 - 8) == smi_units(word);
            if (!end || smi_link_get(d, h, 0) == SMI_BROKEN || smi_link_get(d, h, 1) == SMI_BROKEN) {
                ref.size = (size_t)smi_units(word) * 16 - 8 - d->pre;
                smi_describe(&ref, h + 8, what, sizeof what);
                smi_text(text, sizeof text, "free %s was written to after it was freed", what);
                smi_damage(c, text);
            }
        }
        before = h;
        h += smi_units(word) * 16;
    }
}

static void smi_check_huge(smi_check_ctx *c, const smi_page *page) {
    char text[SMI_WHY + 80], what[SMI_WHY], why[80];
    if (smi_huge_intact(page, why, sizeof why) == SAGEMEM_OK) return;
    smi_ref ref;
    memset(&ref, 0, sizeof ref);
    ref.domain = page->domain;
    ref.tag = page->tag;
    ref.size = page->size;
    ref.file = page->file;
    ref.line = page->line;
    smi_describe(&ref, page->start, what, sizeof what);
    smi_text(text, sizeof text, "%s %s", what, why);
    smi_damage(c, text);
}

/* All blocks of one domain, free ones too; the number damaged. Owner. */
static size_t smi_domain_check(smi_domain *d, const char *call) {
    smi_check_ctx c = {call, 0};
    for (smi_page *page = d->pages; page != NULL; page = page->domain_next) {
        if (page->kind == SMI_CHUNK) smi_check_chunk(&c, d, page);
        else smi_check_huge(&c, page);
    }
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&d->group[g]) != NULL && i < SMI_GROUP; i++)
            for (smi_page *page = d->group[g]->record[i].slabs; page != NULL; page = page->domain_next) smi_check_slab(&c, page);
    return c.damaged + smi_objects_check(d, call);
}

/* -- The calls for blocks ---------------------------------------------------------------------------------------- */

/* As smi_alloc_else, with less to carry along. */
SMI_NOINLINE void *smi_alloc_plain(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *block = smi_alloc_bump(heap, size, tag);
    return SMI_LIKELY(block != NULL) ? block : smi_alloc_slow(heap, NULL, 16, size, tag, smi_nowhere, false, "sagemem_alloc");
}

SAGEMEM_API void *sagemem_alloc(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *block = smi_alloc_fast(heap, size, tag);
    return SMI_LIKELY(block != NULL) ? block : smi_alloc_plain(heap, size, tag);
}

SAGEMEM_API void *sagemem_alloc_at(sagemem_heap *heap, size_t size, sagemem_tag tag, const char *file, int line) {
    smi_site site = {file, line};
    return smi_alloc(heap, size, tag, site, false, "sagemem_alloc");
}

static bool smi_product(size_t count, size_t size, size_t *bytes, const char *call) {
    if (!__builtin_mul_overflow(count, size, bytes)) return true;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
             "%zu objects of %zu bytes are more than an address can count; check how the number was computed", count, size);
    return false;
}

SAGEMEM_API void *sagemem_calloc(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag) {
    return sagemem_calloc_at(heap, count, size, tag, NULL, 0);
}

SAGEMEM_API void *sagemem_calloc_at(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag, const char *file, int line) {
    smi_site site = {file, line};
    size_t bytes;
    return smi_product(count, size, &bytes, "sagemem_calloc") ? smi_alloc(heap, bytes, tag, site, true, "sagemem_calloc") : NULL;
}

SAGEMEM_API void *sagemem_alloc_array(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag) {
    size_t bytes;
    return smi_product(count, size, &bytes, "sagemem_alloc_array")
               ? smi_alloc(heap, bytes, tag, smi_nowhere, false, "sagemem_alloc_array")
               : NULL;
}

SAGEMEM_API void *sagemem_aligned_alloc(sagemem_heap *heap, size_t alignment, size_t size, sagemem_tag tag) {
    const char *call = "sagemem_aligned_alloc";
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > ((size_t)1 << 30)) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "alignment %zu is no power of two up to 1 GiB; 64 is a cache line, 4096 a page",
                 alignment);
        return NULL;
    }
    return smi_alloc_slow(heap, NULL, alignment < 16 ? 16 : alignment, size, tag, smi_nowhere, false, call);
}

SAGEMEM_API void *sagemem_memdup(sagemem_heap *heap, const void *data, size_t size, sagemem_tag tag) {
    if (data == NULL && size > 0) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_memdup", "data is NULL, but %zu bytes are to be copied", size);
        return NULL;
    }
    void *block = smi_alloc(heap, size, tag, smi_nowhere, false, "sagemem_memdup");
    if (block != NULL && size > 0) memcpy(block, data, size);
    return block;
}

SAGEMEM_API char *sagemem_strdup(sagemem_heap *heap, const char *text, sagemem_tag tag) {
    return sagemem_strdup_at(heap, text, tag, NULL, 0);
}

SAGEMEM_API char *sagemem_strdup_at(sagemem_heap *heap, const char *text, sagemem_tag tag, const char *file, int line) {
    smi_site site = {file, line};
    if (text == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_strdup", "text is NULL: pass a string, \"\" for none");
        return NULL;
    }
    size_t size = strlen(text) + 1;
    char *copy = (char *)smi_alloc(heap, size, tag, site, false, "sagemem_strdup");
    if (copy != NULL) memcpy(copy, text, size);
    return copy;
}

SAGEMEM_API void sagemem_free(void *block) { smi_free(block, smi_nowhere, "sagemem_free"); }

SAGEMEM_API void sagemem_free_at(void *block, const char *file, int line) {
    smi_site site = {file, line};
    smi_free(block, site, "sagemem_free");
}

/* A live block in a chunk without smi_extra, resized where it is; false: it must move. Owner. */
static bool smi_chunk_resize(smi_domain *d, smi_page *page, char *header, uint64_t word, size_t size) {
    SMI_ASSUME(header != NULL);
    uint64_t have = smi_units(word), want = (size + 8 + 15) / 16;
    if (size > SMI_CHUNK_BLOCK_MAX || (size >= 65536 && ((uintptr_t)(header + 8) & 63) != 0)) return false;
    if (want < smi_units_min(d)) want = smi_units_min(d);
    uint64_t units = have;
    if (want > have) {
        char *next = smi_next_header(d, page, header, have);
        if (next == NULL) {
            if (page != d->chunk || (size_t)(d->bump_end - d->bump_at) < (want - have) * 16) return false;
            d->bump_at += (want - have) * 16;
            units = want;
        } else {
            uint64_t behind = smi_get(next);
            if (!smi_word_good(d, next, behind) || smi_word_state(behind) != SMI_FREE || have + smi_units(behind) < want)
                return false;
            if (!smi_list_remove(d, next, smi_units(behind))) return false;
            units = smi_chunk_cut(d, page, header, have + smi_units(behind), want);
        }
    } else if (have - want >= smi_units_min(d) && (have - want) * 8 >= have) { /* worth it from an eighth on */
        char *rest = header + want * 16;
        uint64_t rest_word = smi_word(d, rest, have - want, smi_word_tag(word), SMI_LIVE);
        smi_set(rest, rest_word);
        units = want;
        smi_set(header, smi_word(d, header, units, smi_word_tag(word), SMI_LIVE) | (word & SMI_PREV_FREE));
        smi_chunk_free(d, page, rest, rest_word);
    }
    if (units == have) return true;
    smi_set(header, smi_word(d, header, units, smi_word_tag(word), SMI_LIVE) | (smi_get(header) & SMI_PREV_FREE));
    if (units > have) smi_count_alloc(d, smi_word_tag(word), (units - have) * 16, 0);
    else smi_count_free(d, smi_word_tag(word), (have - units) * 16, 0);
    return true;
}

/* The block at another size in place, or NULL. Owner; unwatched. */
static void *smi_resize_in_place(const smi_ref *ref, void *block, size_t size) {
    smi_domain *d = ref->domain;
    if (ref->system != NULL || d->pre != 0) return NULL; /* these move always: stale pointers then show */
    if (ref->page->kind == SMI_HUGE) return size > SMI_CHUNK_BLOCK_MAX / 2 ? smi_huge_resize(d, ref->page, size) : NULL;
    if (smi_watched) return size == ref->size ? block : NULL;
    if (ref->page->kind == SMI_SLAB) return size <= ref->size && (size >= ref->size / 2 || ref->size <= 32) ? block : NULL;
    if (d->rare != NULL && (size <= SMI_SMALL_MAX || ref->size <= SMI_SMALL_MAX)) /* small ones are counted by class */
        return size <= ref->size && size >= ref->size / 2 ? block : NULL;
    return smi_chunk_resize(d, ref->page, ref->header, ref->word, size) ? block : NULL;
}

/* The block elsewhere, with its contents; the old one is freed. NULL: it is as before. */
static void *smi_resize_by_copy(const smi_ref *ref, void *block, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    bool zeroed, zero = (ref->domain->flags & SAGEMEM_HEAP_ZERO) != 0;
    void *fresh = smi_domain_alloc(ref->domain, 16, size, tag, site, &zeroed, call);
    if (fresh == NULL) return NULL;
    size_t keep = ref->size < size ? ref->size : size;
    memcpy(fresh, block, keep);
    if (zero && !zeroed) memset((char *)fresh + keep, 0, sagemem_size(fresh) - keep);
    if (ref->system != NULL) smi_system_free(ref->system);
    else smi_free_own(ref, block, site);
    return fresh;
}

static void *smi_realloc(void *block, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    for (uint32_t step = 0;;) {
        smi_page *page = smi_lookup(block);
        smi_domain *heap = page != NULL && page->kind >= SMI_SLAB && page->kind <= SMI_HUGE ? page->domain->base : NULL;
        smi_domain *shared = heap != NULL && SMI_LOAD(&heap->owner) == SMI_ANY ? heap : NULL; /* kept: the page may go */
        if (shared != NULL) smi_use_begin(shared);
        smi_ref ref;
        void *result = NULL;
        if (smi_resolve_or_fault(block, &ref, call) == SAGEMEM_OK) {
            heap = ref.domain->base;
            if (shared == NULL && SMI_LOAD(&heap->owner) != smi_self() &&
                !(ref.system != NULL && SMI_LOAD(&heap->owner) == SMI_ANY)) {
                smi_heap_wrong(heap, call);
                return NULL;
            }
            if (ref.system == NULL && smi_pending(heap)) {
                smi_collect(heap); /* as before an allocation, so that peaks are exact; neighbours may be free now */
                SMI_ASSUME(ref.page->kind != SMI_CHUNK || ref.header != NULL);
                if (ref.page->kind == SMI_CHUNK) ref.word = smi_get(ref.header);
            }
            if (ref.domain == heap) smi_outside_grows(heap);
            bool same = tag == SAGEMEM_TAG_SAME || tag == ref.tag;
            sagemem_tag new_tag = same ? ref.tag : tag;
            result = same ? smi_resize_in_place(&ref, block, size) : NULL;
            if (result != NULL && (heap->flags & SAGEMEM_HEAP_ZERO) != 0) {
                /* What may show when it grows again, and what it has grown by. */
                size_t now = sagemem_size(result), from = size < ref.size ? size : ref.size;
                memset((char *)result + from, 0, now - from);
            }
            if (result == NULL) result = smi_resize_by_copy(&ref, block, size, new_tag, site, call);
            if (result == NULL && same && size <= ref.size && size > ref.size / 4) {
                result = block; /* too large is better than not at all */
                if ((heap->flags & SAGEMEM_HEAP_ZERO) != 0) memset((char *)block + size, 0, ref.size - size);
            }
        } else {
            heap = NULL;
        }
        if (shared != NULL) smi_use_end(shared);
        if (result != NULL || heap == NULL || !smi_reclaim(heap, &step, size)) {
            if (result == NULL && heap != NULL && (heap->flags & SAGEMEM_HEAP_ABORT_ON_NOMEM) != 0 &&
                smi_mine.error.status != SAGEMEM_E_ARGUMENT) {
                smi_log(SAGEMEM_LOG_ERROR, "%s: %zu bytes: %s", call, size, smi_mine.error.message);
                abort();
            }
            return result;
        }
    }
}

SAGEMEM_API void *sagemem_realloc_at(sagemem_heap *heap, void *block, size_t size, sagemem_tag tag, const char *file, int line) {
    const char *call = "sagemem_realloc";
    smi_site site = {file, line};
    if (block == NULL)
        return smi_alloc(heap, size, tag == SAGEMEM_TAG_SAME ? (sagemem_tag)SAGEMEM_UNTAGGED : tag, site, false, call);
    if (tag > SAGEMEM_TAG_MAX && tag != SAGEMEM_TAG_SAME) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named",
                 tag, SAGEMEM_TAG_USER_MAX);
        return NULL;
    }
    return smi_realloc(block, size, tag, site, call);
}

SAGEMEM_API void *sagemem_realloc(sagemem_heap *heap, void *block, size_t size, sagemem_tag tag) {
    return sagemem_realloc_at(heap, block, size, tag, NULL, 0);
}

static smi_hand *smi_hands_of_default; /* heap NULL: these live for ever, one for each tag */

static void *smi_hand_alloc(void *ctx, size_t size) { return sagemem_alloc(((smi_hand *)ctx)->heap, size, ((smi_hand *)ctx)->tag); }
static void *smi_hand_realloc(void *ctx, void *block, size_t size) {
    return sagemem_realloc(((smi_hand *)ctx)->heap, block, size, ((smi_hand *)ctx)->tag);
}
static void smi_hand_free(void *ctx, void *block) {
    (void)ctx;
    sagemem_free(block);
}

SAGEMEM_API sagemem_allocator sagemem_allocator_for(sagemem_heap *heap, sagemem_tag tag) {
    const char *call = "sagemem_allocator_for";
    sagemem_allocator none = {NULL, NULL, NULL, NULL}, hand = {smi_hand_alloc, smi_hand_realloc, smi_hand_free, NULL};
    smi_start();
    if (tag > SAGEMEM_TAG_MAX) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named",
                 tag, SAGEMEM_TAG_USER_MAX);
        return none;
    }
    if (heap != NULL && (smi_lookup(heap) == NULL || heap->magic != (SMI_MAGIC ^ (uintptr_t)heap))) {
        smi_heap_wrong(heap, call);
        return none;
    }
    smi_lock_take(&smi_registry_lock);
    smi_hand **list = heap != NULL ? &heap->hands : &smi_hands_of_default, *h = *list;
    while (h != NULL && h->tag != tag) h = h->next;
    if (h == NULL && !smi_os_fails() && (h = (smi_hand *)smi_meta_alloc(sizeof *h)) != NULL) {
        h->heap = heap;
        h->tag = tag;
        h->next = *list;
        *list = h;
    }
    smi_lock_give(&smi_registry_lock);
    hand.ctx = h;
    if (h != NULL) return hand;
    smi_fail_system(call, sizeof *h);
    return none;
}

/* -- Blocks, looked at ------------------------------------------------------------------------------------------- */

SAGEMEM_API size_t sagemem_size(const void *block) {
    smi_ref ref;
    return smi_resolve_or_fault(block, &ref, "sagemem_size") == SAGEMEM_OK ? ref.size : 0;
}
SAGEMEM_API sagemem_tag sagemem_tag_of(const void *block) {
    smi_ref ref;
    return smi_resolve_or_fault(block, &ref, "sagemem_tag_of") == SAGEMEM_OK ? ref.tag : (sagemem_tag)SAGEMEM_UNTAGGED;
}
SAGEMEM_API sagemem_heap *sagemem_heap_of(const void *block) {
    smi_ref ref;
    return smi_resolve_or_fault(block, &ref, "sagemem_heap_of") == SAGEMEM_OK ? ref.domain->base : NULL;
}

/* Whether a pointer is a live block of another thread's heap. The lock keeps the page from going, and with it all that
 * it leads to: no page leaves the map without it. *own: of the calling thread, which needs no lock. */
static bool smi_owned_elsewhere(const void *p, bool *own) {
    bool live = false;
    smi_lock_take(&smi_span_lock);
    const smi_page *page = smi_lookup(p);
    bool blocks = page != NULL && (page->kind == SMI_SLAB || page->kind == SMI_CHUNK || page->kind == SMI_HUGE);
    *own = blocks && SMI_LOAD(&page->domain->base->owner) == smi_self();
    if (blocks && !*own) {
        const smi_domain *d = page->domain;
        const char *header = (const char *)((uintptr_t)p - 8);
        if (page->kind == SMI_SLAB) {
            live = smi_slab_index(page, p) >= 0 && !smi_cell_proves_quiet(page, (const smi_cell *)p);
        } else if (page->kind == SMI_HUGE) {
            live = p == page->start && SMI_LOAD(&page->huge_state) == 0;
        } else if (((uintptr_t)p & 15) == 0 && header >= page->base + 8 + d->pre && header < page->base + page->bytes - 16) {
            uint64_t word = smi_get_quiet(header);
            live = smi_word_good(d, header, word) && smi_word_state(word) == SMI_LIVE;
        }
    }
    smi_lock_give(&smi_span_lock);
    return live;
}

SAGEMEM_API bool sagemem_owns(const void *pointer) {
    bool own;
    if (smi_owned_elsewhere(pointer, &own)) return true;
    if (!own) return smi_system_find(pointer) != NULL;
    smi_ref ref;
    char text[SMI_WHY + 40];
    sagemem_status status = smi_resolve(pointer, &ref, text, sizeof text);
    bool damaged = status == SAGEMEM_E_CORRUPT && (ref.page->kind == SMI_HUGE || ref.header == (const char *)pointer - 8);
    return status == SAGEMEM_OK || damaged;
}

SAGEMEM_API sagemem_status sagemem_check(const void *block) {
    smi_ref ref;
    char text[SMI_WHY + 40];
    sagemem_status status = smi_resolve(block, &ref, text, sizeof text);
    return status == SAGEMEM_OK ? SAGEMEM_OK : smi_fail(status, 0, "sagemem_check", "%s", text);
}

SAGEMEM_API size_t sagemem_heap_check(sagemem_heap *heap) {
    smi_domain *h = smi_enter(heap, "sagemem_heap_check");
    if (h == NULL) return 0;
    size_t damaged = 0;
    for (smi_domain *d = h; d != NULL; d = smi_domain_after(h, d)) damaged += smi_domain_check(d, NULL);
    smi_leave(h);
    return damaged;
}

typedef struct smi_visitor {
    void (*visit)(void *ctx, const sagemem_block_info *info);
    void *ctx;
} smi_visitor;

static void smi_visit_public(void *ctx, const smi_ref *ref, void *block) {
    const smi_visitor *v = (const smi_visitor *)ctx;
    const smi_domain *d = ref->domain;
    sagemem_block_info info;
    info.block = block;
    info.size = ref->size;
    info.tag = ref->tag;
    info.heap = d->base;
    info.scope_kind = d->base != d ? d->name : NULL;
    info.scope_id = d->base != d ? d->id : 0;
    info.file = ref->file;
    info.line = ref->line;
    v->visit(v->ctx, &info);
}

SAGEMEM_API void sagemem_heap_visit(sagemem_heap *heap, void (*visit)(void *ctx, const sagemem_block_info *info), void *ctx) {
    if (visit == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_heap_visit", "visit is NULL: pass the function to call for each block");
        return;
    }
    smi_domain *h = smi_enter(heap, "sagemem_heap_visit");
    if (h == NULL) return;
    smi_visitor v = {visit, ctx};
    for (smi_domain *d = h; d != NULL; d = smi_domain_after(h, d)) smi_visit_domain(d, smi_visit_public, &v);
    smi_leave(h);
}

/* -- Carrying blocks about --------------------------------------------------------------------------------------- */

/* Looks a block up for a call that changes it: its heap, entered, or NULL: the fault handler was called. */
static smi_domain *smi_enter_block(void *block, smi_ref *ref, const char *call) {
    if (smi_resolve_or_fault(block, ref, call) != SAGEMEM_OK) return NULL;
    smi_domain *heap = smi_enter(ref->domain->base, call);
    if (heap == NULL || smi_resolve_or_fault(block, ref, call) == SAGEMEM_OK)
        return heap; /* once more: a shared heap is locked only now */
    smi_leave(heap);
    return NULL;
}

/* A huge block changes its domain and keeps its pages. */
static void smi_huge_move_out(smi_page *page, smi_domain *from, smi_domain *to) {
    smi_lock_take(&from->base->lock);
    smi_page_unlink(from, &from->pages, page);
    smi_page_link(to, &to->pages, page);
    smi_count_free(from, page->tag, page->size, 1);
    smi_count_alloc(to, page->tag, page->size, 1);
    SMI_ATOMIC_SUB(&from->budget.held, page->bytes);
    page->domain = to;
    smi_lock_give(&from->base->lock);
}

SAGEMEM_API void *sagemem_keep(void *block) {
    const char *call = "sagemem_keep";
    for (uint32_t step = 0;;) {
        smi_ref ref;
        smi_domain *heap = smi_enter_block(block, &ref, call);
        if (heap == NULL) return NULL;
        smi_domain *from = ref.domain, *to = from->outer;
        void *result = to == NULL ? block : NULL;
        if (to != NULL && to == from->base) smi_outside_grows(to);
        if (to != NULL && smi_records_ready(to, ref.tag)) {
            if (ref.page != NULL && ref.page->kind == SMI_HUGE) {
                smi_huge_move_out(ref.page, from, to);
                result = block;
            } else {
                smi_site site = {ref.file, ref.line};
                bool zeroed;
                result = smi_domain_alloc(to, 16, ref.size, ref.tag, site, &zeroed, call);
                if (result != NULL) {
                    memcpy(result, block, ref.size);
                    if ((from->flags & SAGEMEM_HEAP_ZERO) != 0 && !zeroed)
                        memset((char *)result + ref.size, 0, sagemem_size(result) - ref.size);
                    if (ref.system != NULL) smi_system_free(ref.system);
                    else smi_free_own(&ref, block, site);
                }
            }
        }
        smi_leave(from->base);
        if (result != NULL || !smi_reclaim(from->base, &step, ref.size)) return result;
    }
}

SAGEMEM_API void *sagemem_move(sagemem_heap *to, void *block) {
    const char *call = "sagemem_move";
    smi_ref ref;
    if (smi_resolve_or_fault(block, &ref, call) != SAGEMEM_OK) return NULL;
    smi_site site = {ref.file, ref.line};
    if (SMI_LOAD(&ref.domain->base->owner) != smi_self() && SMI_LOAD(&ref.domain->base->owner) != SMI_ANY) {
        smi_heap_wrong(ref.domain->base, call);
        return NULL;
    }
    void *fresh = smi_alloc_slow(to, NULL, 16, ref.size, ref.tag, site, false, call);
    if (fresh == NULL) return NULL;
    memcpy(fresh, block, ref.size);
    sagemem_free(block);
    return fresh;
}

/* -- Statistics -------------------------------------------------------------------------------------------------- */

static bool smi_heap_alive(const sagemem_heap *heap, const char *call) {
    if (heap == &smi_process || (smi_lookup(heap) != NULL && heap->magic == (SMI_MAGIC ^ (uintptr_t)heap))) return true;
    smi_heap_wrong(heap, call);
    return false;
}

/* Heaps and all below, this tag. Under smi_registry_lock. */
static void smi_tag_sum(smi_domain *h, sagemem_tag tag, smi_sums *s) {
    smi_lock_take(&h->lock);
    smi_domain_sum(h, tag, s);
    smi_lock_give(&h->lock);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_tag_sum(c, tag, s);
}

static void smi_all_sum(smi_domain *h, smi_sums *s) {
    smi_lock_take(&h->lock);
    for (uint32_t t = 0; t < SMI_LOAD(&h->groups_end) * SMI_GROUP; t++) smi_domain_sum(h, (sagemem_tag)t, s);
    smi_lock_give(&h->lock);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_all_sum(c, s);
}

/* Brings the peaks of h and of all below it up to date. Under smi_registry_lock. */
static void smi_refresh(smi_domain *h) {
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_refresh(c);
    if (h == &smi_process) return;
    smi_lock_take(&h->lock);
    smi_publish(h, false);
    smi_lock_give(&h->lock);
}

/* Bytes around the blocks of a domain. In a plain one only those in chunks have any: a word each. Under its heap's lock. */
static uint64_t smi_headers(const smi_domain *d) {
    if (d->pre != 0 || (d->flags & SAGEMEM_HEAP_SYSTEM) != 0) return SMI_LOAD(&d->header_bytes);
    uint64_t blocks = 0, huge = 0;
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&d->group[g]) != NULL && i < SMI_GROUP; i++)
            blocks += smi_record_blocks(&d->group[g]->record[i]);
    for (const smi_page *p = d->pages; p != NULL; p = p->domain_next) huge += p->kind == SMI_HUGE;
    return 8 * smi_minus(blocks, huge);
}

/* Of held: what no block can use. Slab pages: the rest behind the last block. Under smi_registry_lock. */
static uint64_t smi_overhead(smi_domain *h) {
    uint64_t bytes = 0;
    smi_lock_take(&h->lock);
    for (const smi_domain *d = h; d != NULL; d = smi_domain_after(h, (smi_domain *)(uintptr_t)d)) bytes += smi_headers(d);
    for (uint32_t g = 0; g < SMI_LOAD(&h->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&h->group[g]) != NULL && i < SMI_GROUP; i++)
            for (const smi_page *p = SMI_LOAD_ACQUIRE(&h->group[g])->record[i].slabs; p != NULL; p = p->domain_next)
                bytes += p->bytes - (size_t)p->capacity * p->block_size;
    smi_lock_give(&h->lock);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) bytes += smi_overhead(c);
    return bytes;
}

static void smi_count_scopes(smi_domain *h, sagemem_heap_stats *out) {
    out->scopes += SMI_LOAD(&h->scopes);
    out->huge_page_bytes += SMI_LOAD(&h->huge_page_bytes);
    out->mapped += SMI_LOAD(&h->mapped);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_count_scopes(c, out);
}

SAGEMEM_API sagemem_status sagemem_heap_get_stats(const sagemem_heap *heap, sagemem_heap_stats *out) {
    const char *call = "sagemem_heap_get_stats";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_heap_stats");
    smi_start();
    smi_domain *h = heap != NULL ? (smi_domain *)(uintptr_t)heap : &smi_process;
    if (!smi_heap_alive(h, call)) return smi_mine.error.status;
    memset(out, 0, sizeof *out);
    smi_sums s = {0, 0, 0, 0};
    smi_lock_take(&smi_registry_lock);
    smi_refresh(h);
    smi_all_sum(h, &s);
    smi_count_scopes(h, out);
    out->overhead = smi_overhead(h) + (h == &smi_process ? SMI_LOAD(&smi_meta_bytes) : 0);
    smi_lock_give(&smi_registry_lock);
    out->used = s.bytes;
    out->blocks = s.blocks;
    out->total_blocks = s.total_blocks;
    out->used_peak = smi_peak_of(h);
    if (out->used_peak < out->used) out->used_peak = out->used;
    out->held = SMI_LOAD(&h->budget.held);
    out->held_peak = SMI_LOAD(&h->budget.peak);
    out->reserved = SMI_LOAD(&h->budget.reserved);
    return SAGEMEM_OK;
}

static void smi_tag_stats_of(smi_domain *h, sagemem_tag tag, const smi_sums *s, sagemem_tag_stats *out) {
    const smi_record *r = smi_record_find(h, tag);
    out->used = s->bytes;
    out->blocks = s->blocks;
    out->total_blocks = s->total_blocks;
    out->total_bytes = s->total_bytes;
    out->peak = r != NULL ? SMI_LOAD(&r->peak) : 0;
    out->peak_blocks = r != NULL ? SMI_LOAD(&r->peak_blocks) : 0;
    if (out->peak < out->used) out->peak = out->used; /* an exact domain notices a peak when it first falls */
    if (out->peak_blocks < out->blocks) out->peak_blocks = out->blocks;
}

SAGEMEM_API sagemem_status sagemem_tag_get_stats(const sagemem_heap *heap, sagemem_tag tag, sagemem_tag_stats *out) {
    const char *call = "sagemem_tag_get_stats";
    if (out == NULL || tag > SAGEMEM_TAG_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL, or tag %u is above SAGEMEM_TAG_MAX", tag);
    smi_start();
    smi_domain *h = heap != NULL ? (smi_domain *)(uintptr_t)heap : &smi_process;
    if (!smi_heap_alive(h, call)) return smi_mine.error.status;
    smi_sums s = {0, 0, 0, 0};
    smi_lock_take(&smi_registry_lock);
    smi_refresh(h);
    smi_tag_sum(h, tag, &s);
    smi_tag_stats_of(h, tag, &s, out);
    smi_lock_give(&smi_registry_lock);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_peak_get_stats(const sagemem_heap *heap, sagemem_tag tag, uint64_t *used_at_peak) {
    const char *call = "sagemem_peak_get_stats";
    if (used_at_peak == NULL || tag > SAGEMEM_TAG_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "used_at_peak is NULL, or tag %u is above SAGEMEM_TAG_MAX", tag);
    smi_start();
    smi_domain *h = heap != NULL ? (smi_domain *)(uintptr_t)heap : &smi_process;
    if (!smi_heap_alive(h, call)) return smi_mine.error.status;
    smi_lock_take(&smi_registry_lock);
    smi_refresh(h);
    smi_lock_take(&h->lock);
    const smi_record *r = smi_record_find(h, tag);
    *used_at_peak = r != NULL ? smi_record_at_peak(h, r) : 0;
    smi_lock_give(&h->lock);
    smi_lock_give(&smi_registry_lock);
    return SAGEMEM_OK;
}

/* The scope that ended last, or NULL with E_NOT_FOUND set; the heap is entered. */
static smi_domain *smi_enter_last(const sagemem_heap *heap, const char *call) {
    smi_domain *h = smi_enter((sagemem_heap *)(uintptr_t)heap, call);
    if (h == NULL || h->ended != NULL) return h;
    smi_fail(SAGEMEM_E_NOT_FOUND, 0, call, "no scope has ended in heap '%s' yet", h->name);
    smi_leave(h);
    return NULL;
}

SAGEMEM_API sagemem_status sagemem_scope_get_last(const sagemem_heap *heap, sagemem_scope_stats *out) {
    const char *call = "sagemem_scope_get_last";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_scope_stats");
    smi_domain *h = smi_enter_last(heap, call);
    if (h == NULL) return smi_mine.error.status;
    const smi_domain *s = h->ended;
    out->kind = s->name;
    out->id = s->id;
    out->used_peak = smi_peak_of(s);
    out->held_peak = SMI_LOAD(&s->budget.peak);
    out->duration_ns = s->duration_ns;
    out->total_blocks = 0;
    for (uint32_t g = 0; g < SMI_LOAD(&s->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&s->group[g]) != NULL && i < SMI_GROUP; i++)
            out->total_blocks += s->group[g]->record[i].alloc_blocks;
    smi_leave(h);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_scope_tag_get_last(const sagemem_heap *heap, sagemem_tag tag, sagemem_tag_stats *out) {
    const char *call = "sagemem_scope_tag_get_last";
    if (out == NULL || tag > SAGEMEM_TAG_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL, or tag %u is above SAGEMEM_TAG_MAX", tag);
    smi_domain *h = smi_enter_last(heap, call);
    if (h == NULL) return smi_mine.error.status;
    smi_sums s = {0, 0, 0, 0};
    const smi_record *r = smi_record_find(h->ended, tag);
    if (r != NULL) smi_record_sum(r, &s);
    smi_tag_stats_of(h->ended, tag, &s, out);
    smi_leave(h);
    return SAGEMEM_OK;
}

/* ==========================================================================
 * >>limits  The public side of >>budget: limits, reserve, reclaimers, what the
 *           system says, purging; and the sources of pages.
 * ========================================================================== */

/* Gives back what a heap keeps for later: quarantine, empty pages, spare chunks. Owner. */
static void smi_domain_release_kept(smi_domain *heap) {
    for (smi_domain *d = heap; d != NULL; d = smi_domain_after(heap, d)) smi_quarantine_flush(d);
    smi_domain_trim(heap);
}

static sagemem_status smi_domain_for_limit(const sagemem_heap *heap, smi_domain **out, const char *call) {
    smi_start();
    *out = heap != NULL ? (smi_domain *)(uintptr_t)heap : &smi_process;
    return smi_heap_alive(*out, call) ? SAGEMEM_OK : smi_mine.error.status;
}

SAGEMEM_API sagemem_status sagemem_limit_set(sagemem_heap *heap, uint64_t bytes) {
    smi_domain *d;
    sagemem_status status = smi_domain_for_limit(heap, &d, "sagemem_limit_set");
    if (status != SAGEMEM_OK) return status;
    SMI_STORE(&d->budget.limit, bytes);
    sagemem_error before = smi_mine.error;
    for (uint32_t step = 0; bytes != 0 && SMI_LOAD(&d->budget.held) > bytes;) {
        smi_mine.error.status = SAGEMEM_E_LIMIT; /* the reason that the chain goes by */
        smi_domain *mine = d != &smi_process && SMI_LOAD(&d->owner) == smi_self() ? d : smi_mine.heap;
        if (!smi_reclaim(mine, &step, SMI_LOAD(&d->budget.held) - bytes)) break;
    }
    smi_mine.error = before;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_reserve(sagemem_heap *heap, uint64_t bytes) {
    const char *call = "sagemem_reserve";
    smi_domain *d;
    sagemem_status status = smi_domain_for_limit(heap, &d, call);
    if (status != SAGEMEM_OK) return status;
    smi_budget *b = &d->budget;
    /* The old claim is taken out first: nobody else can draw on it while the new one is made. */
    uint64_t old = smi_budget_draw(b, UINT64_MAX);
    if (bytes <= old) {
        SMI_ATOMIC_ADD(&b->reserved, bytes);
        smi_uncharge(b, old - bytes, NULL);
        return SAGEMEM_OK;
    }
    smi_claim claim;
    bool claimed = smi_charge(b, bytes - old, 0, &claim);
    if (claimed) smi_budget_peak(b);
    SMI_ATOMIC_ADD(&b->reserved, claimed ? bytes : old);
    return claimed ? SAGEMEM_OK : smi_fail_limit(call, claim.met, bytes - old);
}

SAGEMEM_API sagemem_status sagemem_reclaimer_add(const char *name, int priority, sagemem_reclaim_fn reclaim, void *ctx) {
    const char *call = "sagemem_reclaimer_add";
    smi_start();
    if (name == NULL || reclaim == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "a reclaimer needs a name and a function");
    smi_lock_take(&smi_registry_lock);
    sagemem_status status = SAGEMEM_OK;
    const char *own = smi_intern(name);
    if (own == NULL) {
        status = smi_mine.error.status;
    } else if (smi_reclaimer_count == SMI_RECLAIMERS) {
        status = smi_fail(SAGEMEM_E_FULL, 0, call, "%d reclaimers are registered; remove one, or let one serve several caches",
                          SMI_RECLAIMERS);
    } else {
        uint32_t at = smi_reclaimer_count++;
        for (; at > 0 && smi_reclaimers[at - 1].priority > priority; at--) smi_reclaimers[at] = smi_reclaimers[at - 1];
        smi_reclaimer fresh = {own, priority, reclaim, ctx};
        smi_reclaimers[at] = fresh;
    }
    smi_lock_give(&smi_registry_lock);
    return status;
}

SAGEMEM_API sagemem_status sagemem_reclaimer_remove(const char *name) {
    smi_lock_take(&smi_registry_lock);
    uint32_t at = 0;
    while (at < smi_reclaimer_count && (name == NULL || strncmp(smi_reclaimers[at].name, name, SMI_NAME_MAX - 1) != 0)) at++;
    bool found = at < smi_reclaimer_count;
    if (found) {
        smi_reclaimer_count--;
        for (; at < smi_reclaimer_count; at++) smi_reclaimers[at] = smi_reclaimers[at + 1];
    }
    smi_lock_give(&smi_registry_lock);
    return found ? SAGEMEM_OK
                 : smi_fail(SAGEMEM_E_NOT_FOUND, 0, "sagemem_reclaimer_remove", "no reclaimer is called '%s'",
                            name != NULL ? name : "(NULL)");
}

#ifdef __linux__
/* A number in a file of a cgroup; UINT64_MAX: no such file, or "max". */
static uint64_t smi_cgroup_number(const char *directory, const char *path, const char *file) {
    char name[1024], text[64];
    int n = snprintf(name, sizeof name, "%s%s/%s", directory, path, file);
    if (n < 0 || (size_t)n >= sizeof name || !smi_os_read_text(name, text, sizeof text)) return UINT64_MAX;
    return text[0] >= '0' && text[0] <= '9' ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* The least limit of a cgroup and all above it. `path` is changed. */
static uint64_t smi_cgroup_limit(const char *directory, char *path, const char *file) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t limit = smi_cgroup_number(directory, path, file);
        if (limit < least) least = limit;
        char *slash = strrchr(path, '/');
        if (slash == NULL) return least;
        *slash = '\0';
    }
}

/* Goes through lines "0::/path" (v2) and "4:memory:/path" (v1) of the file that says where we are. */
static uint64_t smi_cgroups_limit(const char *membership, const char *root) {
    char text[4096], directory[512];
    uint64_t least = UINT64_MAX;
    if (!smi_os_read_text(membership, text, sizeof text)) return least;
    for (char *line = text, *end; line != NULL && *line != '\0'; line = end) {
        end = strchr(line, '\n');
        if (end != NULL) *end++ = '\0';
        char *controllers = strchr(line, ':'), *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) continue;
        *path++ = '\0';
        if (strcmp(path, "/") == 0) *path = '\0';
        bool v1 = strstr(controllers + 1, "memory") != NULL, v2 = controllers[1] == '\0';
        if (!v1 && !v2) continue;
        smi_text(directory, sizeof directory, "%s%s", root, v1 ? "/memory" : "");
        uint64_t limit = smi_cgroup_limit(directory, path, v1 ? "memory.limit_in_bytes" : "memory.max");
        if (limit < least) least = limit;
    }
    return least;
}
#endif

SAGEMEM_API uint64_t sagemem_limit_detect(void) {
    uint64_t available, least = smi_os_total_memory(&available), other = smi_os_address_limit();
    if (least == 0) least = UINT64_MAX;
    if (other < least) least = other;
#ifdef __linux__
    other = smi_cgroups_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    if (other < least) least = other;
#endif
    return least;
}

/* -- Pressure. Under smi_registry_lock, the callback outside of it. ---------------------------------------------- */

static double smi_watch_warning = 80, smi_watch_critical = 95;
static void (*smi_watch_fn)(void *ctx, const sagemem_system_memory *now);
static void *smi_watch_ctx;
static uint32_t smi_watch_interval;
static uint64_t smi_watch_looked_ms;
static sagemem_pressure smi_watch_last;
static bool smi_watch_thread_runs, smi_watch_stop;
static bool smi_watch_slow; /* watching without a thread: looked at where pages are taken */
static smi_os_thread smi_watch_thread;

SAGEMEM_API sagemem_status sagemem_system_memory_get(sagemem_system_memory *out) {
    if (out == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_system_memory_get",
                        "out is NULL: pass the address of a sagemem_system_memory");
    memset(out, 0, sizeof *out);
    out->total = smi_os_total_memory(&out->available);
    out->used = smi_minus(out->total, out->available);
    out->resident = smi_os_resident();
    out->limit = sagemem_limit_detect();
    double system = out->total > 0 ? 100.0 * (double)out->used / (double)out->total : 0;
    double own = out->limit > 0 && out->limit != UINT64_MAX ? 100.0 * (double)out->resident / (double)out->limit : 0;
    out->usage_percent = own > system ? own : system;
    out->pressure = out->usage_percent >= smi_watch_critical  ? SAGEMEM_PRESSURE_CRITICAL
                    : out->usage_percent >= smi_watch_warning ? SAGEMEM_PRESSURE_WARNING
                                                              : SAGEMEM_PRESSURE_OK;
    return SAGEMEM_OK;
}

/* Looks, and tells when the level is another than the last time. */
static void smi_watch_look(void) {
    sagemem_system_memory now;
    sagemem_system_memory_get(&now);
    smi_lock_take(&smi_registry_lock);
    bool changed = now.pressure != smi_watch_last && smi_watch_fn != NULL;
    void (*fn)(void *ctx, const sagemem_system_memory *now) = smi_watch_fn;
    void *ctx = smi_watch_ctx;
    smi_watch_last = now.pressure;
    smi_lock_give(&smi_registry_lock);
    if (changed) fn(ctx, &now);
}

/* A slow path asks; at most once a second something is done. */
static void smi_pressure_look(void) {
    if (SMI_LIKELY(!SMI_LOAD(&smi_watch_slow))) return;
    uint64_t now = smi_os_now_ms();
    smi_lock_take(&smi_registry_lock);
    bool due = now >= smi_watch_looked_ms + 1000;
    if (due) smi_watch_looked_ms = now;
    smi_lock_give(&smi_registry_lock);
    if (due) smi_watch_look();
}

static void smi_watch_main(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&smi_watch_stop, __ATOMIC_ACQUIRE)) {
        smi_watch_look();
        for (uint32_t waited = 0; waited < smi_watch_interval && !__atomic_load_n(&smi_watch_stop, __ATOMIC_ACQUIRE);) {
            uint32_t rest = smi_watch_interval - waited, nap = rest < 20 ? rest : 20; /* how long ending may take */
            smi_os_sleep_ms(nap);
            waited += nap;
        }
    }
}
static void smi_watch_forked(void) { smi_watch_thread_runs = false; } /* the thread stayed in the parent */

SAGEMEM_API sagemem_status sagemem_pressure_watch(double warning_percent, double critical_percent,
                                                  void (*changed_fn)(void *ctx, const sagemem_system_memory *now), void *ctx,
                                                  uint32_t interval_ms) {
    const char *call = "sagemem_pressure_watch";
    smi_start();
    if (changed_fn != NULL && !(warning_percent > 0 && warning_percent <= critical_percent && critical_percent <= 100))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "thresholds %g and %g are not 0 < warning <= critical <= 100", warning_percent,
                        critical_percent);
    if (smi_watch_thread_runs) {
        __atomic_store_n(&smi_watch_stop, true, __ATOMIC_RELEASE);
        smi_os_thread_join(&smi_watch_thread);
        smi_watch_thread_runs = false;
    }
    smi_lock_take(&smi_registry_lock);
    smi_watch_fn = changed_fn;
    smi_watch_ctx = ctx;
    if (changed_fn != NULL) {
        smi_watch_warning = warning_percent;
        smi_watch_critical = critical_percent;
    }
    smi_watch_interval = interval_ms;
    smi_watch_last = SAGEMEM_PRESSURE_OK;
    smi_watch_looked_ms = 0;
    SMI_STORE(&smi_watch_slow, changed_fn != NULL && interval_ms == 0);
    smi_lock_give(&smi_registry_lock);
    if (changed_fn == NULL || interval_ms == 0) return SAGEMEM_OK;
    __atomic_store_n(&smi_watch_stop, false, __ATOMIC_RELEASE);
    smi_watch_thread_runs = smi_os_thread_start(&smi_watch_thread, smi_watch_main, NULL);
    if (smi_watch_thread_runs) return SAGEMEM_OK;
    smi_watch_fn = NULL;
    return smi_fail(SAGEMEM_E_NOMEM, smi_os_error(), call, "no thread could be started; use interval_ms 0");
}

SAGEMEM_API uint64_t sagemem_trim(void) {
    smi_start();
    uint64_t before = SMI_LOAD(&smi_process.budget.held);
    smi_lock_take(&smi_registry_lock);
    for (smi_domain *h = smi_heap_after(&smi_process, NULL); h != NULL; h = smi_heap_after(&smi_process, h))
        if (SMI_LOAD(&h->owner) != 0) {
            SMI_STORE(&h->trim_wanted, true);
            SMI_STORE(&h->pending, 1);
        }
    smi_lock_give(&smi_registry_lock);
    /* One's own heaps at once; the flag says which are left, so that no lock is held while pages go. */
    for (;;) {
        smi_lock_take(&smi_registry_lock);
        smi_domain *h = smi_heap_after(&smi_process, NULL);
        while (h != NULL && !(SMI_LOAD(&h->owner) == smi_self() && SMI_LOAD(&h->trim_wanted))) h = smi_heap_after(&smi_process, h);
        smi_lock_give(&smi_registry_lock);
        if (h == NULL) break;
        smi_collect(h); /* trims as well */
    }
    smi_lock_take(&smi_span_lock);
    smi_regions_purge(0, true);
    smi_lock_give(&smi_span_lock);
    uint64_t after = SMI_LOAD(&smi_process.budget.held);
    return smi_minus(before, after);
}

/* -- Sources ----------------------------------------------------------------------------------------------------- */

static void *smi_source_system_map(void *ctx, size_t size, size_t alignment) {
    (void)ctx;
    return smi_os_map(size, alignment);
}
static void smi_source_system_unmap(void *ctx, void *pages, size_t size) {
    (void)ctx;
    smi_os_release(pages, size);
}
static void smi_source_system_purge(void *ctx, void *pages, size_t size) {
    (void)ctx;
    smi_os_purge(pages, size);
}

SAGEMEM_API sagemem_source sagemem_source_system(void) {
    sagemem_source source = {smi_source_system_map, smi_source_system_unmap, smi_source_system_purge, smi_os_page_size(), NULL};
    return source;
}

/* ctx: the page size. */
static __thread bool smi_huge_obtained; /* what the calling thread's last map of such a source gave */
static void *smi_source_huge_map(void *ctx, size_t size, size_t alignment) {
    size_t page_size = (size_t)(uintptr_t)ctx;
    char *at = (size & (page_size - 1)) == 0 ? (char *)smi_os_huge_map(size, page_size) : NULL;
    smi_huge_obtained = at != NULL && ((uintptr_t)at & (alignment - 1)) == 0;
    if (smi_huge_obtained) return at;
    if (at != NULL) smi_os_release(at, size);
    at = (char *)smi_os_map(size, alignment > page_size ? alignment : page_size);
    if (at != NULL) smi_os_huge_advise(at, size);
    return at;
}

SAGEMEM_API sagemem_source sagemem_source_huge(size_t page_size) {
    if (page_size == 0 || (page_size & (page_size - 1)) != 0 || page_size < smi_os_page_size()) page_size = (size_t)1 << 21;
    sagemem_source source = {smi_source_huge_map, smi_source_system_unmap, NULL, page_size, (void *)(uintptr_t)page_size};
    return source;
}

/* ctx: policy and node. */
static void *smi_source_numa_map(void *ctx, size_t size, size_t alignment) {
    uintptr_t code = (uintptr_t)ctx;
    void *at = smi_os_map(size, alignment);
    if (at == NULL || smi_os_numa_bind(at, size, (int)(code >> 2), (sagemem_numa_policy)(code & 3)) ||
        (code & 3) != SAGEMEM_NUMA_BIND)
        return at;
    smi_os_release(at, size); /* that node or nothing */
    return NULL;
}

SAGEMEM_API sagemem_source sagemem_source_numa(int node, sagemem_numa_policy policy) {
    if (node < 0 || node > 1023) node = 0;
    sagemem_source source = {smi_source_numa_map, smi_source_system_unmap, smi_source_system_purge, smi_os_page_size(),
                             (void *)(((uintptr_t)node << 2) | (uintptr_t)policy)};
    return source;
}

static bool smi_source_gave_huge(const sagemem_source *source) {
    return source->map_fn == smi_source_huge_map && smi_huge_obtained;
}

/* Buffer and file: a region over memory that is there already. Called under smi_span_lock. */
typedef struct smi_pool_source {
    sagemem_source source; /* first: what the caller holds */
    smi_region region;
    smi_page *outer;              /* the block that lent the buffer */
    struct smi_pool_source *next; /* of smi_file_sources */
    bool is_file;
    smi_os_file file;
    char *mapping;
    size_t bytes;
    char path[512];
} smi_pool_source;

static smi_pool_source *smi_file_sources; /* under smi_registry_lock */

static void *smi_source_pool_map(void *ctx, size_t size, size_t alignment) {
    smi_pool_source *s = (smi_pool_source *)ctx;
    smi_region *r = &s->region;
    size_t n = size / SMI_GRANULE, hint = r->hint, at;
    while ((at = smi_region_find(r, n)) < r->granules && ((uintptr_t)(r->base + at * SMI_GRANULE) & (alignment - 1)) != 0)
        r->hint = at + 1;
    r->hint = hint; /* only this search skipped what lies in front */
    if (at == r->granules) return NULL;
    char *pages = r->base + at * SMI_GRANULE;
    bool clean = smi_region_dirty(r, at, n) == 0;
    smi_region_take(r, at, n);
    if (!clean) memset(pages, 0, size);
    return pages;
}
static void smi_source_pool_unmap(void *ctx, void *pages, size_t size) {
    smi_pool_source *s = (smi_pool_source *)ctx;
    size_t at = (size_t)((char *)pages - s->region.base) / SMI_GRANULE, n = size / SMI_GRANULE;
    smi_region_give(&s->region, at, n);
    if (s->is_file) smi_region_purge(&s->region, at, n);
}
static void smi_source_pool_purge(void *ctx, void *pages, size_t size) {
    smi_pool_source *s = (smi_pool_source *)ctx;
    if (s->is_file) (void)smi_os_file_purge(pages, size);
}

/* The huge block whose memory a heap's pages are, or NULL. */
static smi_page *smi_source_outer(const smi_domain *heap) {
    return heap->has_source && heap->source.map_fn == smi_source_pool_map ? ((smi_pool_source *)heap->source.ctx)->outer : NULL;
}

static smi_pool_source *smi_source_pool_create(char *base, size_t granules) {
    smi_pool_source *s = (smi_pool_source *)smi_meta_alloc(sizeof *s);
    if (s == NULL || !smi_region_init(&s->region, base, granules)) {
        smi_meta_free(s, sizeof *s);
        return NULL;
    }
    s->source.map_fn = smi_source_pool_map;
    s->source.unmap_fn = smi_source_pool_unmap;
    s->source.purge_fn = smi_source_pool_purge;
    s->source.page_size = SMI_GRANULE;
    s->source.ctx = s;
    s->region.source = &s->source;
    return s;
}

/* In the child of a fork: the file is the parent's. What the child writes stays with it, and its heaps there are frozen. */
static void smi_sources_forked(void) {
    for (smi_pool_source *s = smi_file_sources; s != NULL; s = s->next) {
        smi_os_file_part(&s->file, s->mapping, s->bytes);
        s->path[0] = '\0';
    }
}

static bool smi_source_in_file(const smi_domain *heap) {
    return heap->has_source && heap->source.map_fn == smi_source_pool_map && ((smi_pool_source *)heap->source.ctx)->is_file;
}

SAGEMEM_API sagemem_source *sagemem_source_buffer(void *memory, size_t size) {
    const char *call = "sagemem_source_buffer";
    smi_start();
    uintptr_t first = ((uintptr_t)memory + SMI_GRANULE - 1) & ~(uintptr_t)(SMI_GRANULE - 1),
              end = ((uintptr_t)memory + size) & ~(uintptr_t)(SMI_GRANULE - 1);
    if (memory == NULL || size < 65536 || first >= end || (uintptr_t)memory + size < (uintptr_t)memory) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "a buffer of %zu bytes at %p is too small; 64 KiB are the least", size, memory);
        return NULL;
    }
    /* A block with pages of its own can lend all but the granule it starts in; among other blocks the map has no room. */
    smi_page *outer = smi_lookup((void *)first);
    if (outer != NULL && outer->kind != SMI_HUGE) outer = NULL;
    if (outer != NULL && (uintptr_t)outer->start >> SMI_GRANULE_SHIFT == first >> SMI_GRANULE_SHIFT) first += SMI_GRANULE;
    for (uintptr_t at = first; at < end; at += SMI_GRANULE) {
        const smi_page *page = smi_lookup((void *)at);
        if (page == NULL || page == outer || page->kind == SMI_DEAD) continue;
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                 "%p lies among the blocks of a heap; take the buffer from elsewhere, or from a block of more than %d bytes",
                 memory, SMI_CHUNK_BLOCK_MAX);
        return NULL;
    }
    smi_pool_source *s = smi_os_fails() ? NULL : smi_source_pool_create((char *)first, (end - first) / SMI_GRANULE);
    if (s == NULL) {
        smi_fail_system(call, sizeof *s);
        return NULL;
    }
    s->outer = outer;
    memset(s->region.dirty, 0xFF, (s->region.granules + 63) / 64 * sizeof(uint64_t)); /* the caller's bytes are in it */
    s->region.dirty_free = s->region.granules;
    return &s->source;
}

SAGEMEM_API sagemem_source *sagemem_source_file(const char *path, uint64_t limit) {
    const char *call = "sagemem_source_file";
    smi_start();
    size_t bytes = (size_t)limit & ~(size_t)(SMI_GRANULE - 1);
    if (path == NULL || bytes < 65536 || bytes != (limit & ~(uint64_t)(SMI_GRANULE - 1)) ||
        strlen(path) >= sizeof((smi_pool_source *)0)->path) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                 "a file of %llu bytes cannot be a source; it needs a path of up to 511 bytes and a limit from 64 KiB to the "
                 "address space",
                 (unsigned long long)limit);
        return NULL;
    }
    smi_os_file file;
    char *base = (char *)smi_os_file_map(&file, path, bytes);
    if (base == NULL) {
        smi_fail(SAGEMEM_E_IO, smi_os_error(), call, "'%s' of %llu bytes cannot be made or mapped: %s", path,
                 (unsigned long long)limit, strerror(smi_os_error()));
        return NULL;
    }
    char *first =
        (char *)(((uintptr_t)base + SMI_GRANULE - 1) & ~(uintptr_t)(SMI_GRANULE - 1)); /* a mapping may start between granules */
    smi_pool_source *s = smi_source_pool_create(first, (bytes - (size_t)(first - base)) / SMI_GRANULE);
    if (s == NULL) {
        smi_os_file_unmap(&file, path, base, bytes);
        return NULL;
    }
    s->is_file = true;
    s->file = file;
    s->bytes = bytes;
    s->mapping = base;
    memcpy(s->path, path, strlen(path) + 1);
    smi_lock_take(&smi_registry_lock);
    s->next = smi_file_sources;
    smi_file_sources = s;
    smi_lock_give(&smi_registry_lock);
    return &s->source;
}

SAGEMEM_API void sagemem_source_destroy(sagemem_source *source) {
    const char *call = "sagemem_source_destroy";
    if (source == NULL) return;
    smi_pool_source *s = (smi_pool_source *)source->ctx;
    if (source->map_fn != smi_source_pool_map || &s->source != source) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call,
                  "this source was not made by sagemem_source_buffer or _file; sources by value are not destroyed");
        return;
    }
    smi_domain *user = NULL;
    smi_lock_take(&smi_registry_lock);
    while ((user = smi_heap_after(&smi_process, user)) != NULL)
        if (user->has_source && user->source.ctx == s) break;
    smi_lock_give(&smi_registry_lock);
    if (user != NULL) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call, "heap '%s' still takes its pages from this source; destroy it first",
                  user->name);
        return;
    }
    smi_lock_take(&smi_registry_lock);
    smi_pool_source **at = &smi_file_sources;
    while (s->is_file && *at != s) at = &(*at)->next;
    if (s->is_file) *at = s->next;
    smi_lock_give(&smi_registry_lock);
    if (s->is_file) smi_os_file_unmap(&s->file, s->path, s->mapping, s->bytes);
    smi_meta_free(s->region.used, 2 * ((s->region.granules + 63) / 64) * sizeof(uint64_t));
    smi_meta_free(s, sizeof *s);
}

/* -- Failures on purpose ----------------------------------------------------------------------------------------- */

/* The short paths do not pass a point that can fail: this thread's heaps leave them for the time being. */
static void smi_short_paths(void) {
    smi_lock_take(&smi_registry_lock);
    for (smi_domain *h = smi_heap_after(&smi_process, NULL); h != NULL; h = smi_heap_after(&smi_process, h))
        if (SMI_LOAD(&h->owner) == smi_self()) {
            h->fast = smi_heap_may_be_fast(h);
            smi_heap_quick(h);
        }
    smi_lock_give(&smi_registry_lock);
}

SAGEMEM_API sagemem_status sagemem_check_failures(sagemem_status (*run)(void *ctx), void *ctx, uint64_t *points) {
    const char *call = "sagemem_check_failures";
    if (run == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "run is NULL: pass the function to test");
    if (smi_mine.fail_at != 0) return smi_fail(SAGEMEM_E_BUSY, 0, call, "run calls sagemem_check_failures itself");
    smi_start();
    sagemem_status status;
    uint64_t at = 1;
    for (;; at++) {
        smi_mine.fail_at = at;
        smi_mine.fail_seen = 0;
        smi_short_paths();
        status = run(ctx);
        bool met = smi_mine.fail_seen >= at;
        smi_mine.fail_at = 0;
        if (!met) break;
    }
    smi_short_paths();
    if (points != NULL) *points = at - 1;
    return status;
}

/* ==========================================================================
 * >>pool  Blocks of equal places with a bitmap each; buffers of many sizes.
 * ========================================================================== */
#if SAGEMEM_WITH_POOL

/* -- Pools ------------------------------------------------------------------------------------------------------- */

/* A block of the heap has room for many objects: its places, `stride` bytes apart. They are described apart from them, up
 * to 3840 together, by a section:
 *
 *     block      | 64 or more | place 0 | place 1 | ...                   | place n | ...               |
 *                               start                                     start of the next section
 *     section    open  1 0 1 1 ...       one bit a word of the map: there may be a free place in it
 *                map   0110... 0000...   one bit a place: it is free
 *                gone  0000... 0100...   one bit a place: never used again (or behind the last one)
 *
 *     sections   [number] -> section     in the order in which their blocks were taken
 *     open_map   one bit a section: it may have free places; `lowest`: no section below has any
 *     table      [hash of address / window] -> section, one entry for each window that the section reaches into
 *     front      the places freed last, newest on top
 *
 * The maps are the truth: a place is handed out where its bit is set. `open` and `open_map` are set where a bit below is
 * set; they are cleared only when somebody looks there in vain. A place in `front` is free like any other; from the maps
 * places are taken only while `front` is empty, so that what is in it is never handed out by them.
 *
 * Objects are handed out from the lowest free address of the section in use, then from the lowest section with any free
 * place: whatever the order of the frees was, what is allocated one after the other lies one after the other. Places from
 * `fresh` on were never handed out, and their memory was never touched.
 *
 * A free place begins with a proof, (address ^ key) * mix, that shows whether it was written to; in a SAGEMEM_HEAP_CHECKED
 * heap all of it is filled, and there is a red zone behind each object. The first place does not lie at the start of the
 * block: no object is a block, so that sagemem_free of one is seen. */
enum {
    SMI_POOL_WORDS = 60, /* of a map: a section's structure is 1 KiB then, with two of them */
    SMI_POOL_PLACES = 64 * SMI_POOL_WORDS,
    SMI_POOL_HEAD = 64,                /* in front of the first place, at least: a line, so that objects of 64 bytes are lines */
    SMI_POOL_OBJECT_MAX = 1 << 18,     /* bytes of an object; the arithmetic of smi_pool_index is exact up to 2^19 */
    SMI_POOL_BLOCK_MAX = 1 << 20,      /* bytes of a block that was not asked for by initial_count */
    SMI_POOL_PAGE = SMI_GRANULE - 256, /* bytes of a block that fits into a page with all that any heap puts around it */
    SMI_POOL_FRONT = 16,               /* a random walk of allocations and frees finds it empty once in 17 times */
    SMI_POOL_INVERSE = 50,             /* bits behind the point of 1 / stride */
    SMI_POOL_SLOTS = 64                /* at first: 512 bytes */
};

typedef struct smi_pool_section {
    char *start;    /* place 0 */
    size_t bytes;   /* of all places */
    uint64_t open;  /* bit w: word w of the map may have a free place */
    uint32_t fresh; /* places from here on were never handed out */
    uint32_t places;
    size_t number;      /* in the pool's list */
    char *block;        /* the first section of a block: the block; else NULL */
    size_t block_bytes; /* usable, of the block */
} smi_pool_section;     /* behind it: the map, the map of what is gone */

/* A free place, with where its bit is. */
typedef struct smi_pool_hint {
    char *object; /* NULL: none */
    uint64_t *word;
    uint64_t mask;
} smi_pool_hint;

/* bypass: an object that is a block. */
typedef struct smi_pool_loose {
    char *block;
    size_t size;                          /* usable */
    struct smi_pool_loose *chain;         /* same slot */
    struct smi_pool_loose *older, *newer; /* in the order in which they were made */
} smi_pool_loose;

struct sagemem_pool {
    smi_object object;
    bool plain;                /* the short paths are open: no hook, nothing to fill or to zero, no tool that watches */
    bool proves;               /* free places begin with a proof */
    bool fronted;              /* places freed last are handed out first */
    bool checked, zero;        /* the heap's flags */
    bool busy;                 /* a hook is running */
    uint32_t front_top;        /* of front */
    smi_pool_section *section; /* in use: places come from here */
    smi_pool_section *last;    /* where a pointer was found last */
    uint64_t total, freed;     /* objects handed out, given back */
    uint64_t peak;             /* most at once, as last seen when one was freed */
    uint64_t key;              /* of the proofs */
    uint64_t inverse;          /* 2^50 / stride, rounded up */
    size_t stride;
    smi_pool_section **table;
    uint32_t table_shift;  /* hash: the upper bits of a product; 64 - log2(slots) */
    uint32_t window_shift; /* log2 of the bytes of a window: an eighth to a quarter of a section */
    size_t table_entries;
    smi_pool_hint front[SMI_POOL_FRONT];
    /* seldom needed */
    smi_pool_section **sections;
    uint64_t *open_map; /* behind the list */
    size_t section_count, section_room, lowest;
    uint32_t section_places; /* of a full section */
    size_t head;             /* bytes in front of the first place */
    size_t page_places;      /* of the smallest block */
    size_t next_places;      /* of the next one */
    uint64_t capacity, blocks, held;
    uint32_t visits; /* sagemem_pool_each under way */
    smi_pool_loose **slots, *oldest, *newest;
    size_t slot_count;      /* a power of two */
    sagemem_pool_desc desc; /* resolved */
};

static smi_pool_section smi_pool_none; /* stands for no section: nothing lies in it, nothing is free */

static uint64_t *smi_pool_map(const smi_pool_section *s) { return (uint64_t *)(void *)(uintptr_t)(s + 1); }
static size_t smi_pool_words(const smi_pool_section *s) { return ((size_t)s->places + 63) / 64; }
static uint64_t *smi_pool_gone(const smi_pool_section *s) { return smi_pool_map(s) + smi_pool_words(s); }
static size_t smi_pool_section_size(size_t places) { return sizeof(smi_pool_section) + (places + 63) / 64 * 16; }
static uint64_t smi_pool_live(const smi_pool_section *s, size_t w) { return ~(smi_pool_map(s)[w] | smi_pool_gone(s)[w]); }
static unsigned smi_pool_first_bit(uint64_t bits) { return (unsigned)__builtin_ctzll((unsigned long long)bits); }

/* What lies `offset` bytes behind the start of a section. The product is below 2^62, and the rounding of the inverse adds
 * less than 1 / stride to the quotient as long as places * stride^2 < 2^50 (Granlund, Montgomery 1994). */
SMI_INLINE size_t smi_pool_index(const sagemem_pool *p, size_t offset) {
    return (size_t)((uint64_t)offset * p->inverse >> SMI_POOL_INVERSE);
}

SMI_INLINE uint64_t smi_pool_proof(const sagemem_pool *p, const char *place) {
    return ((uint64_t)(uintptr_t)place ^ p->key) * SMI_MIX;
}

/* -- Finding: a free place, the section of a pointer ------------------------------------------------------------------ */

/* The lowest section with a free place is the one in use from now on. False: there is none. */
SMI_NOINLINE bool smi_pool_seek(sagemem_pool *p) {
    for (smi_pool_section *s = p->section;; s = p->sections[p->lowest]) {
        for (; s->open != 0; s->open &= s->open - 1) {
            if (smi_pool_map(s)[smi_pool_first_bit(s->open)] == 0) continue;
            p->section = s;
            return true;
        }
        if (p->section_count > 0 && s != &smi_pool_none) smi_bits_clear(p->open_map, s->number, 1);
        size_t w = p->lowest / 64, end = (p->section_count + 63) / 64;
        while (w < end && p->open_map[w] == 0) w++;
        if (w == end) {
            p->lowest = p->section_count;
            p->section = &smi_pool_none;
            return false;
        }
        p->lowest = w * 64 + smi_pool_first_bit(p->open_map[w]);
    }
}

/* A section that had no free place has one again. */
SMI_NOINLINE void smi_pool_reopen(sagemem_pool *p, const smi_pool_section *s) {
    smi_bits_set(p->open_map, s->number, 1);
    if (s->number < p->lowest) p->lowest = s->number;
}

SMI_INLINE size_t smi_pool_slot(const sagemem_pool *p, uintptr_t window) {
    return (size_t)((uint64_t)window * SMI_MIX >> p->table_shift);
}

SMI_INLINE bool smi_pool_within(const smi_pool_section *s, const void *at) {
    return (uintptr_t)at - (uintptr_t)s->start < s->bytes;
}

/* The section that any pointer at all lies in, or NULL. */
SMI_INLINE smi_pool_section *smi_pool_find(sagemem_pool *p, const void *at) {
    if (smi_pool_within(p->last, at)) return p->last;
    if (SMI_UNLIKELY(p->section_count == 0)) return NULL;
    size_t mask = ((size_t)1 << (64 - p->table_shift)) - 1;
    for (size_t i = smi_pool_slot(p, (uintptr_t)at >> p->window_shift);; i = (i + 1) & mask) {
        smi_pool_section *s = p->table[i];
        if (s == NULL) return NULL;
        if (smi_pool_within(s, at)) return p->last = s;
    }
}

/* -- The short paths: no hook, nothing to tell anybody ------------------------------------------------------------------ */

/* A free place, not free any more, its proof not looked at. NULL: none is known without a look around. */
SMI_INLINE char *smi_pool_take(sagemem_pool *p, bool *used_before) {
    smi_pool_hint *top = &p->front[p->front_top];
    char *place = top->object;
    *used_before = true;
    if (place != NULL) {
        top->object = NULL;
        *top->word &= ~top->mask;
        p->front_top = (p->front_top - 1) % SMI_POOL_FRONT;
    } else {
        smi_pool_section *s = p->section;
        if (SMI_UNLIKELY(s->open == 0)) return NULL;
        size_t w = smi_pool_first_bit(s->open);
        uint64_t *word = &smi_pool_map(s)[w], bits = *word;
        if (SMI_UNLIKELY(bits == 0)) return NULL;
        size_t index = w * 64 + smi_pool_first_bit(bits);
        *word = bits & (bits - 1);
        place = s->start + index * p->stride;
        if (index >= s->fresh) {
            s->fresh = (uint32_t)index + 1;
            *used_before = false;
        }
    }
    p->total++;
    return place;
}

/* The place of a live object is free. */
SMI_INLINE void smi_pool_give(sagemem_pool *p, smi_pool_section *s, size_t index, char *place) {
    uint64_t *word = &smi_pool_map(s)[index / 64], mask = (uint64_t)1 << (index % 64);
    if (p->proves) {
        uint64_t proof = smi_pool_proof(p, place);
        memcpy(place, &proof, sizeof proof);
    }
    *word |= mask;
    if (SMI_UNLIKELY(s->open == 0)) smi_pool_reopen(p, s);
    s->open |= (uint64_t)1 << (index / 64);
    if (!p->fronted) return;
    p->front_top = (p->front_top + 1) % SMI_POOL_FRONT;
    smi_pool_hint *top = &p->front[p->front_top];
    top->object = place;
    top->word = word;
    top->mask = mask;
}

/* A peak is noticed when the number first falls after it. */
SMI_INLINE void smi_pool_count_free(sagemem_pool *p, uint64_t objects) {
    uint64_t live = p->total - p->freed;
    if (live > p->peak) p->peak = live;
    p->freed += objects;
}

/* Whether a free place that was in use before is as it was left. */
SMI_INLINE bool smi_pool_proved(const sagemem_pool *p, const char *place) {
    uint64_t found;
    if (!p->proves) return true;
    memcpy(&found, place, sizeof found);
    return SMI_LIKELY(found == smi_pool_proof(p, place));
}

/* -- Damage ----------------------------------------------------------------------------------------------------------- */

static const char *smi_pool_name(const sagemem_pool *p) { return p->object.name != NULL ? p->object.name : "pool"; }

/* The first byte of a place in a checked heap that is not as it was left: behind an object, or anywhere in a free place.
 * stride: there is none. */
static size_t smi_pool_scan(const sagemem_pool *p, const char *place, bool live) {
    size_t from = live ? p->desc.object_size : 0;
    return from + smi_scan_quiet(place + from, live ? SMI_FILL_ZONE : SMI_FILL_FREED, p->stride - from);
}

/* Whether a place that is or was in use is damaged, and how. */
static bool smi_pool_damaged(const sagemem_pool *p, const char *place, bool live, char *text, size_t size) {
    size_t at = p->checked ? smi_pool_scan(p, place, live) : p->stride;
    if (at == p->stride && (live || smi_pool_proved(p, place))) return false;
    char where[32] = "at its start";
    if (p->checked) smi_text(where, sizeof where, "at byte %zu", at);
    smi_text(text, size, "object %p (%zu bytes) of pool '%s' (tag '%s') was written to %s%s", (const void *)place,
             p->desc.object_size, smi_pool_name(p), sagemem_tag_name(p->desc.tag), where,
             live ? ", past its end" : " after it was freed");
    return true;
}

/* A place that was taken turns out to have been written to while it was free. Nobody gets it any more; that only the long
 * way sees. */
SMI_NOINLINE void smi_pool_lose(sagemem_pool *p, const char *place, const char *why, const char *call) {
    const smi_pool_section *s = smi_pool_find(p, place);
    SMI_ASSUME(s != NULL);
    smi_bits_set(smi_pool_gone(s), smi_pool_index(p, (size_t)(place - s->start)), 1);
    p->plain = false;
    p->total--;
    p->capacity--;
    smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call, "%s; look for a pointer that is used after the free", why);
}

/* -- Blocks ------------------------------------------------------------------------------------------------------------- */

/* The library's own memory for the pool. NULL: the error is set. */
static void *smi_pool_meta(const sagemem_pool *p, size_t size, const char *call) {
    void *at = NULL;
    smi_mine.paying = &p->object.domain->budget;
    if (smi_os_fails()) smi_fail_system(call, size);
    else at = smi_meta_alloc(size);
    smi_mine.paying = NULL;
    return at;
}

static size_t smi_pool_table_slots(const sagemem_pool *p) { return p->table != NULL ? (size_t)1 << (64 - p->table_shift) : 0; }
static size_t smi_pool_list_size(size_t room) { return room * sizeof(smi_pool_section *) + room / 64 * sizeof(uint64_t); }

/* Enters a section for each window that it reaches into. There is room. */
static void smi_pool_table_put(sagemem_pool *p, smi_pool_section *s) {
    size_t mask = smi_pool_table_slots(p) - 1;
    uintptr_t first = (uintptr_t)s->start >> p->window_shift, end = ((uintptr_t)s->start + s->bytes - 1) >> p->window_shift;
    for (uintptr_t window = first; window <= end; window++) {
        size_t i = smi_pool_slot(p, window);
        while (p->table[i] != NULL) i = (i + 1) & mask;
        p->table[i] = s;
        p->table_entries++;
    }
}

static void smi_pool_table_fill(sagemem_pool *p) {
    p->table_entries = 0;
    for (size_t i = 0; i < p->section_count; i++) smi_pool_table_put(p, p->sections[i]);
}

/* Room in the table for that many more sections: at most half of it is in use. */
static bool smi_pool_table_room(sagemem_pool *p, size_t sections, const char *call) {
    size_t each = (p->section_places * p->stride >> p->window_shift) + 2;
    size_t slots = smi_pool_table_slots(p), need = 2 * (p->table_entries + sections * each), old = slots;
    if (slots < SMI_POOL_SLOTS) slots = SMI_POOL_SLOTS;
    while (slots < need) slots *= 2;
    if (slots == old) return true;
    smi_pool_section **table = (smi_pool_section **)smi_pool_meta(p, slots * sizeof *table, call);
    if (table == NULL) return false;
    smi_meta_free(p->table, old * sizeof *table);
    p->table = table;
    p->table_shift = 64 - smi_pool_first_bit(slots);
    smi_pool_table_fill(p);
    return true;
}

/* Room in the list for that many more sections. */
static bool smi_pool_list_room(sagemem_pool *p, size_t sections, const char *call) {
    size_t room = p->section_room > 0 ? p->section_room : 64, count = p->section_count;
    while (room < count + sections) room *= 2;
    if (room == p->section_room) return true;
    smi_pool_section **list = (smi_pool_section **)smi_pool_meta(p, smi_pool_list_size(room), call);
    if (list == NULL) return false;
    uint64_t *open_map = (uint64_t *)(void *)(list + room);
    if (count > 0) memcpy(list, p->sections, count * sizeof *list);
    if (count > 0) memcpy(open_map, p->open_map, p->section_room / 64 * sizeof *open_map);
    smi_meta_free(p->sections, smi_pool_list_size(p->section_room));
    p->sections = list;
    p->open_map = open_map;
    p->section_room = room;
    return true;
}

/* All places of a section are free, as if never handed out, but those that are gone. */
static void smi_pool_section_clear(smi_pool_section *s) {
    size_t words = smi_pool_words(s);
    for (size_t w = 0; w < words; w++) smi_pool_map(s)[w] = ~smi_pool_gone(s)[w];
    s->open = ((uint64_t)1 << words) - 1;
    s->fresh = 0;
}

static smi_pool_section *smi_pool_section_make(const sagemem_pool *p, char *start, size_t places, const char *call) {
    smi_pool_section *s = (smi_pool_section *)smi_pool_meta(p, smi_pool_section_size(places), call);
    if (s == NULL) return NULL;
    s->start = start;
    s->bytes = places * p->stride;
    s->places = (uint32_t)places;
    if (places % 64 != 0) smi_pool_gone(s)[places / 64] = UINT64_MAX << (places % 64);
    smi_pool_section_clear(s);
    return s;
}

/* A block of the heap becomes a block of the pool. False: nothing has changed. */
static bool smi_pool_block_add(sagemem_pool *p, char *block, size_t places, const char *call) {
    size_t sections = (places + p->section_places - 1) / p->section_places, first = p->section_count, made = 0;
    if (!smi_pool_list_room(p, sections, call) || !smi_pool_table_room(p, sections, call)) return false;
    for (size_t left = places; made < sections; made++) {
        size_t n = left < p->section_places ? left : p->section_places;
        smi_pool_section *s = smi_pool_section_make(p, block + p->head + (places - left) * p->stride, n, call);
        if (s == NULL) break;
        s->number = first + made;
        p->sections[first + made] = s;
        left -= n;
    }
    for (; made < sections && made > 0; made--) {
        smi_pool_section *s = p->sections[first + made - 1];
        smi_meta_free(s, smi_pool_section_size(s->places));
    }
    if (made == 0) return false;
    for (size_t i = first; i < first + sections; i++) smi_pool_table_put(p, p->sections[i]);
    smi_bits_set(p->open_map, first, sections);
    if (first < p->lowest) p->lowest = first;
    p->section_count += sections;
    p->sections[first]->block = block;
    p->sections[first]->block_bytes = sagemem_size(block);
    p->held += p->sections[first]->block_bytes;
    p->blocks++;
    p->capacity += places;
    if (smi_watched) smi_watch_shut(block, p->sections[first]->block_bytes);
    return true;
}

/* One attempt at a block without asking anybody to give memory back. */
static char *smi_pool_block_try(const sagemem_pool *p, size_t alignment, size_t size, const char *call) {
    bool zeroed;
    return (char *)smi_domain_alloc(p->object.domain, alignment, size, p->desc.tag, smi_nowhere, &zeroed, call);
}

/* All that the heap can do. A reclaimer may want this heap, or this pool: a shared heap is unlocked. */
static char *smi_pool_block_insist(const sagemem_pool *p, size_t alignment, size_t size, const char *call) {
    sagemem_heap *heap = p->desc.heap;
    smi_leave(heap);
    void *block = smi_object_alloc(&p->object, alignment, size, p->desc.tag, false, call);
    return smi_enter(heap, call) != NULL ? (char *)block : NULL;
}

/* A block for so many places, or for fewer where that is not to be had: *places, down to `least`. */
static char *smi_pool_block_take(const sagemem_pool *p, size_t *places, size_t least, const char *call) {
    sagemem_error before = smi_mine.error;
    for (;;) {
        size_t size = p->head + *places * p->stride;
        char *block = *places > least ? smi_pool_block_try(p, p->head, size, call) : smi_pool_block_insist(p, p->head, size, call);
        if (block != NULL) smi_mine.error = before; /* what was met on the way is nobody's failure */
        if (block != NULL || *places <= least) return block;
        *places = *places / 2 > least ? *places / 2 : least;
    }
}

static bool smi_pool_full(const sagemem_pool *p, uint64_t room, const char *call) {
    if (p->desc.max_count == 0 || room < p->desc.max_count) return false;
    smi_fail(SAGEMEM_E_FULL, 0, call, "pool '%s' has %llu objects, and its max_count is %zu; free some, or raise max_count",
             smi_pool_name(p), (unsigned long long)(p->total - p->freed), p->desc.max_count);
    return true;
}

/* One more block, of at least `least` places unless max_count allows fewer. False: the error is set. */
static bool smi_pool_grow(sagemem_pool *p, size_t least, const char *call) {
    size_t places = p->next_places, most = p->desc.max_count != 0 ? p->desc.max_count : SIZE_MAX;
    if (smi_pool_full(p, p->capacity, call)) return false;
    if (places > most - p->capacity) places = (size_t)(most - p->capacity);
    if (least > places) least = places;
    char *block = smi_pool_block_take(p, &places, least, call);
    if (block == NULL) return false;
    /* A reclaimer may have used the pool meanwhile: what holds is what is there now. */
    bool full = smi_pool_full(p, p->capacity, call);
    if (!full && places > most - p->capacity) places = (size_t)(most - p->capacity);
    if (full || !smi_pool_block_add(p, block, places, call)) {
        smi_free(block, smi_nowhere, call);
        return false;
    }
    double next = (double)places * p->desc.growth, cap = (double)(SMI_POOL_BLOCK_MAX - p->head) / (double)p->stride;
    p->next_places = next < cap ? (size_t)next : cap > 1 ? (size_t)cap : 1;
    return true;
}

/* No place is free: a block, or what a reclaimer gave back while one was asked for. */
static bool smi_pool_more(sagemem_pool *p, const char *call) {
    sagemem_error before = smi_mine.error;
    if (smi_pool_grow(p, p->page_places, call)) return true;
    if (!smi_pool_seek(p)) return false;
    smi_mine.error = before;
    return true;
}

/* The block goes back; the list is the caller's affair. `n` sections from number `first` on describe it. */
static void smi_pool_block_free(sagemem_pool *p, size_t first, size_t n, const char *call) {
    smi_pool_section *s = p->sections[first];
    char *block = s->block;
    p->held -= s->block_bytes;
    p->blocks--;
    if (smi_watched) smi_watch_open(block, s->block_bytes);
    for (size_t i = first; i < first + n; i++) {
        s = p->sections[i];
        p->capacity -= s->places;
        smi_meta_free(s, smi_pool_section_size(s->places));
    }
    smi_free(block, smi_nowhere, call);
}

static void smi_pool_front_clear(sagemem_pool *p) { memset(p->front, 0, sizeof p->front); }

/* The number of sections of the block that begins with that one; *empty: every place is free. */
static size_t smi_pool_block_sections(const sagemem_pool *p, size_t first, bool *empty) {
    size_t end = first;
    *empty = true;
    do {
        const smi_pool_section *s = p->sections[end++];
        size_t free_places = 0;
        for (size_t w = 0; w < smi_pool_words(s); w++) free_places += (size_t)__builtin_popcountll(smi_pool_map(s)[w]);
        *empty &= free_places == s->places;
    } while (end < p->section_count && p->sections[end]->block == NULL);
    return end - first;
}

/* -- bypass: objects that are blocks ------------------------------------------------------------------------------------ */

static smi_pool_loose **smi_pool_loose_slot(const sagemem_pool *p, const void *block) {
    return &p->slots[(size_t)((uint64_t)(uintptr_t)block * SMI_MIX >> 32) & (p->slot_count - 1)];
}

static smi_pool_loose *smi_pool_loose_find(const sagemem_pool *p, const void *block) {
    smi_pool_loose *l = p->slot_count > 0 ? *smi_pool_loose_slot(p, block) : NULL;
    while (l != NULL && l->block != block) l = l->chain;
    return l;
}

/* Room for one more: twice the slots, and all in their new chains. */
static bool smi_pool_loose_room(sagemem_pool *p, const char *call) {
    size_t old = p->slot_count, count = old > 0 ? 2 * old : (size_t)SMI_POOL_SLOTS;
    if (p->capacity < old) return true;
    smi_pool_loose **slots = (smi_pool_loose **)smi_pool_meta(p, count * sizeof *slots, call);
    if (slots == NULL) return false;
    smi_meta_free(p->slots, old * sizeof *slots);
    p->slots = slots;
    p->slot_count = count;
    for (smi_pool_loose *l = p->oldest; l != NULL; l = l->newer) {
        smi_pool_loose **slot = smi_pool_loose_slot(p, l->block);
        l->chain = *slot;
        *slot = l;
    }
    return true;
}

static void smi_pool_loose_put(sagemem_pool *p, smi_pool_loose *l) {
    smi_pool_loose **slot = smi_pool_loose_slot(p, l->block);
    l->chain = *slot;
    *slot = l;
    l->older = p->newest;
    if (l->older != NULL) l->older->newer = l;
    else p->oldest = l;
    p->newest = l;
    p->capacity++;
    p->blocks++;
    p->held += l->size;
}

/* The pool does not know the block any more. */
static void smi_pool_loose_forget(sagemem_pool *p, smi_pool_loose *l) {
    smi_pool_loose **slot = smi_pool_loose_slot(p, l->block);
    while (*slot != l) slot = &(*slot)->chain;
    *slot = l->chain;
    if (l->older != NULL) l->older->newer = l->newer;
    else p->oldest = l->newer;
    if (l->newer != NULL) l->newer->older = l->older;
    else p->newest = l->older;
    p->capacity--;
    p->blocks--;
    p->held -= l->size;
    smi_meta_free(l, sizeof *l);
}

/* A new object. That its address is one of an object already shows what happened to that. */
static char *smi_pool_loose_take(sagemem_pool *p, const char *call) {
    if (smi_pool_full(p, p->capacity, call) || !smi_pool_loose_room(p, call)) return NULL;
    smi_pool_loose *l = (smi_pool_loose *)smi_pool_meta(p, sizeof *l, call);
    if (l == NULL) return NULL;
    size_t alignment = p->desc.alignment > 16 ? p->desc.alignment : 16;
    l->block = smi_pool_block_insist(p, alignment, p->desc.object_size, call);
    smi_pool_loose *former = l->block != NULL ? smi_pool_loose_find(p, l->block) : NULL;
    if (former != NULL) {
        smi_pool_loose_forget(p, former);
        smi_pool_count_free(p, 1);
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
                  "object %p of pool '%s' was freed by another call; give objects back by sagemem_pool_free", (void *)l->block,
                  smi_pool_name(p));
    }
    if (l->block == NULL || former != NULL || smi_pool_full(p, p->capacity, call)) { /* a reclaimer may have used the pool */
        if (l->block != NULL) smi_free(l->block, smi_nowhere, call);
        smi_meta_free(l, sizeof *l);
        return NULL;
    }
    l->size = sagemem_size(l->block);
    smi_pool_loose_put(p, l);
    p->total++;
    return (char *)l->block;
}

/* -- Objects ------------------------------------------------------------------------------------------------------------ */

/* Where a live object is: its section and index, or bypass: its block. */
typedef struct smi_pool_place {
    char *object;
    smi_pool_section *section;
    size_t index;
    smi_pool_loose *loose;
} smi_pool_place;

static void smi_pool_refuse_loose(const sagemem_pool *p, const void *object, const char *call) {
    char text[SMI_WHY + 40];
    smi_ref ref;
    sagemem_status status = smi_resolve(object, &ref, text, sizeof text);
    if (status == SAGEMEM_OK) smi_text(text, sizeof text, "%p is a block, but no object of it", object);
    smi_fault(status == SAGEMEM_E_CORRUPT ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status != SAGEMEM_OK ? status : SAGEMEM_E_FOREIGN,
              call, "pool '%s': %s", smi_pool_name(p), text);
}

/* Finds a live object; what is none goes to the fault handler. */
static bool smi_pool_locate(sagemem_pool *p, const void *object, smi_pool_place *at, const char *call) {
    at->object = (char *)(uintptr_t)object;
    at->loose = NULL;
    at->section = NULL;
    if (p->desc.bypass) {
        smi_ref ref;
        at->loose = smi_pool_loose_find(p, object);
        if (at->loose != NULL) return smi_resolve_or_fault(object, &ref, call) == SAGEMEM_OK;
        smi_pool_refuse_loose(p, object, call);
        return false;
    }
    smi_pool_section *s = at->section = smi_pool_find(p, object);
    if (s == NULL) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                  "%p is no object of pool '%s'; give each object back to the pool that it came from", object, smi_pool_name(p));
        return false;
    }
    size_t offset = (size_t)(at->object - s->start);
    at->index = smi_pool_index(p, offset);
    if (at->index * p->stride != offset) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                  "%p lies %zu bytes inside object %p of pool '%s'; only the start of an object can be used", object,
                  offset - at->index * p->stride, (void *)(s->start + at->index * p->stride), smi_pool_name(p));
        return false;
    }
    if ((smi_pool_live(s, at->index / 64) >> (at->index % 64) & 1) != 0) return true;
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
              "object %p (%zu bytes) of pool '%s' (tag '%s') was freed already; look for a second free of it", object,
              p->desc.object_size, smi_pool_name(p), sagemem_tag_name(p->desc.tag));
    return false;
}

/* Gives the place of a live object back; the number of objects is the caller's affair. */
static void smi_pool_vacate(sagemem_pool *p, const smi_pool_place *at, const char *call) {
    if (at->loose != NULL) {
        smi_pool_loose_forget(p, at->loose);
        smi_free(at->object, smi_nowhere, call);
        return;
    }
    if (p->checked) smi_fill_quiet(at->object, SMI_FILL_FREED, p->stride);
    smi_pool_give(p, at->section, at->index, at->object);
    if (smi_watched) smi_watch_shut(at->object, p->stride);
}

/* A place for an object, from the front, the maps, or a new block. NULL: the error is set. */
static char *smi_pool_find_place(sagemem_pool *p, const char *call) {
    char text[SMI_WHY + 120], *place;
    bool used_before;
    while ((place = smi_pool_take(p, &used_before)) == NULL)
        if (!smi_pool_seek(p) && !smi_pool_more(p, call)) return NULL;
    if (used_before && smi_pool_damaged(p, place, false, text, sizeof text)) {
        smi_pool_lose(p, place, text, call);
        return NULL;
    }
    size_t size = p->desc.object_size;
    if (p->checked) smi_fill_quiet(place, SMI_FILL_NEW, size);
    if (p->checked) smi_fill_quiet(place + size, SMI_FILL_ZONE, p->stride - size);
    if (smi_watched) smi_watch_fresh(place, size);
    if (p->zero) memset(place, 0, size);
    return place;
}

/* Runs the hook that makes an object, a copy of `from` if that is not NULL. */
static sagemem_status smi_pool_run_hook(sagemem_pool *p, void *object, const void *from) {
    const sagemem_pool_desc *d = &p->desc;
    sagemem_status status = SAGEMEM_OK;
    p->busy = true;
    if (from != NULL && d->copy_fn != NULL) status = d->copy_fn(d->ctx, object, from);
    else if (from != NULL) memcpy(object, from, d->object_size);
    else if (d->init_fn != NULL) status = d->init_fn(d->ctx, object);
    p->busy = false;
    return status;
}

/* An object, made by init_fn or as a copy of `from`. */
static void *smi_pool_make(sagemem_pool *p, const void *from, const char *call) {
    char *object = p->desc.bypass ? smi_pool_loose_take(p, call) : smi_pool_find_place(p, call);
    if (object == NULL) return NULL;
    sagemem_status status = smi_pool_run_hook(p, object, from);
    if (status == SAGEMEM_OK) return object;
    smi_pool_place at;
    if (smi_pool_locate(p, object, &at, call)) smi_pool_vacate(p, &at, call);
    p->total--;
    smi_fail(status, 0, call, "%s of pool '%s' failed with %s, and the object was not made; see why it does",
             from != NULL ? "copy_fn" : "init_fn", smi_pool_name(p), sagemem_status_name(status));
    return NULL;
}

static void smi_pool_clean(sagemem_pool *p, void *object) {
    if (p->desc.cleanup_fn == NULL) return;
    p->busy = true;
    p->desc.cleanup_fn(p->desc.ctx, object);
    p->busy = false;
}

/* Calls visit for every live object in order, until it returns false. It may free what it is given, and allocate. */
static void smi_pool_visit(sagemem_pool *p, bool (*visit)(void *ctx, void *object), void *ctx) {
    for (smi_pool_loose *l = p->oldest, *newer; l != NULL; l = newer) {
        newer = l->newer;
        if (!visit(ctx, l->block)) return;
    }
    for (size_t i = 0; i < p->section_count; i++) {
        smi_pool_section *s = p->sections[i];
        for (size_t w = 0; w < smi_pool_words(s); w++)
            for (uint64_t live = smi_pool_live(s, w); live != 0; live &= (live - 1) & smi_pool_live(s, w))
                if (!visit(ctx, s->start + (w * 64 + smi_pool_first_bit(live)) * p->stride)) return;
    }
}

static bool smi_pool_clean_visit(void *ctx, void *object) {
    smi_pool_clean((sagemem_pool *)ctx, object);
    return true;
}

/* Every object is cleaned up and not counted any more; the places are the caller's affair. */
static void smi_pool_clean_all(sagemem_pool *p) {
    if (p->desc.cleanup_fn != NULL) smi_pool_visit(p, smi_pool_clean_visit, p);
    smi_pool_count_free(p, p->total - p->freed);
}

/* -- The pool as an object of its heap ------------------------------------------------------------------------------------ */

static void smi_pool_check_section(const sagemem_pool *p, const smi_pool_section *s, smi_check_ctx *c) {
    char text[SMI_WHY + 120];
    for (size_t i = 0; i < s->fresh; i++) {
        bool live = (smi_pool_live(s, i / 64) >> (i % 64) & 1) != 0;
        if (smi_bit(smi_pool_gone(s), i)) continue; /* the fault handler knows */
        if (smi_pool_damaged(p, s->start + i * p->stride, live, text, sizeof text)) smi_damage(c, text);
    }
}

/* What lies loose in the heap, its own walker sees. */
static size_t smi_pool_check(const smi_object *o, const char *call) {
    const sagemem_pool *p = (const sagemem_pool *)o;
    smi_check_ctx c = {call, 0};
    for (size_t i = 0; i < p->section_count && (p->checked || p->proves); i++) smi_pool_check_section(p, p->sections[i], &c);
    return c.damaged;
}

static void smi_pool_end(smi_object *o) {
    const char *call = "sagemem_pool_destroy";
    sagemem_pool *p = (sagemem_pool *)o;
    bool empty;
    if (p->checked) smi_pool_check(o, call);
    smi_pool_clean_all(p);
    while (p->oldest != NULL) {
        smi_ref ref;
        char *block = p->oldest->block;
        smi_pool_loose_forget(p, p->oldest);
        if (smi_resolve_or_fault(block, &ref, call) == SAGEMEM_OK) smi_free(block, smi_nowhere, call);
    }
    for (size_t first = 0, n; first < p->section_count; first += n) {
        n = smi_pool_block_sections(p, first, &empty);
        smi_pool_block_free(p, first, n, call);
    }
    smi_meta_free(p->sections, smi_pool_list_size(p->section_room));
    smi_meta_free(p->table, smi_pool_table_slots(p) * sizeof *p->table);
    smi_meta_free(p->slots, p->slot_count * sizeof *p->slots);
    p->section = p->last = &smi_pool_none; /* for a call on the pool that has ended */
    p->plain = false;
}

static const smi_object_kind smi_pool_kind = {"pool", sizeof(sagemem_pool), smi_pool_end, smi_pool_check};

/* The pool may be used now. True: a shared heap is locked. */
static bool smi_pool_enter(const sagemem_pool *p, const char *call) {
    if (!smi_object_enter(p, &smi_pool_kind, call)) return false;
    if (!p->busy) return true;
    smi_object_leave(&p->object);
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
              "a hook of pool '%s' is running: it may use the heap, but not its own pool; make what an object owns elsewhere",
              smi_pool_name(p));
    return false;
}

/* The same for calls that take away what a visit is looking at. */
static bool smi_pool_enter_alone(const sagemem_pool *p, const char *call) {
    if (!smi_pool_enter(p, call)) return false;
    if (p->visits == 0) return true;
    smi_object_leave(&p->object);
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
              "sagemem_pool_each is visiting pool '%s': its visit may free the object that it is given; do this after it",
              smi_pool_name(p));
    return false;
}

/* What smi_object_enter finds, in line. The structure of a pool stays readable when it has ended: its domain is then the
 * process, which has no owner. */
SMI_INLINE bool smi_pool_quick(const sagemem_pool *p) {
    return smi_lookup(p) == &smi_meta_page && ((uintptr_t)p & 63) == 0 && p->object.kind == &smi_pool_kind && p->plain &&
           SMI_LOAD(&p->object.domain->base->owner) == smi_self();
}

/* -- Descriptions ----------------------------------------------------------------------------------------------------------- */

static bool smi_pool_desc_good(const sagemem_pool_desc *d, const char *call) {
    if (d->object_size == 0 || d->object_size > SMI_POOL_OBJECT_MAX)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                 "object_size is %zu; it must be 1 to %d bytes: larger objects are as well off as blocks of their own",
                 d->object_size, SMI_POOL_OBJECT_MAX);
    else if ((d->alignment & (d->alignment - 1)) != 0 || d->alignment > 4096)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "alignment %zu is no power of two up to 4096; 64 is a cache line, 4096 a page",
                 d->alignment);
    else if (d->tag > SAGEMEM_TAG_MAX)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named",
                 d->tag, SAGEMEM_TAG_USER_MAX);
    else if (d->growth != 0 && !(d->growth >= 1 && d->growth <= 1e9)) /* NaN, too */
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "growth is %g; it must be 1 (blocks of one size) or more, 0 for 2", d->growth);
    else if (d->max_count != 0 && d->initial_count > d->max_count)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "initial_count %zu is above max_count %zu; raise max_count, or 0 for no limit",
                 d->initial_count, d->max_count);
    else return true;
    return false;
}

/* The sizes that follow from the desc. False: initial_count objects are more than an address can count. */
static bool smi_pool_lay_out(sagemem_pool *p, const char *call) {
    sagemem_pool_desc *d = &p->desc;
    size_t zone = p->checked || smi_watched ? (size_t)SMI_RED_ZONE : 0, bytes;
    if (d->alignment == 0) d->alignment = 16;
    if (d->growth == 0) d->growth = 2;
    p->stride = (d->object_size + zone + d->alignment - 1) & ~(d->alignment - 1);
    p->head = d->alignment > SMI_POOL_HEAD ? d->alignment : (size_t)SMI_POOL_HEAD;
    p->page_places = p->stride < SMI_POOL_PAGE - p->head ? (SMI_POOL_PAGE - p->head) / p->stride : 1;
    if (d->initial_count == 0) {
        d->initial_count = p->page_places;
        if (d->max_count != 0 && d->initial_count > d->max_count) d->initial_count = d->max_count;
    }
    p->next_places = d->initial_count;
    p->inverse = (((uint64_t)1 << SMI_POOL_INVERSE) + p->stride - 1) / p->stride;
    size_t most = (SMI_POOL_BLOCK_MAX - p->head) / p->stride;
    p->section_places = most == 0 ? 1 : most < SMI_POOL_PLACES ? (uint32_t)most : (uint32_t)SMI_POOL_PLACES;
    size_t section_bytes = p->section_places * p->stride;
    while (section_bytes >> p->window_shift >= 8) p->window_shift++;
    if (!__builtin_mul_overflow(d->initial_count, p->stride, &bytes) && bytes <= SIZE_MAX / 2 - p->head) return true;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "initial_count %zu objects of %zu bytes are more than an address can count",
             d->initial_count, d->object_size);
    return false;
}

SAGEMEM_API sagemem_pool *sagemem_pool_create(const sagemem_pool_desc *desc) {
    const char *call = "sagemem_pool_create";
    if (desc == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "desc is NULL: pass one with object_size set, or use SAGEMEM_POOL_OF");
        return NULL;
    }
    if (!smi_pool_desc_good(desc, call)) return NULL;
    sagemem_pool *p = (sagemem_pool *)smi_object_create(desc->heap, &smi_pool_kind, desc->name, call);
    if (p == NULL) return NULL;
    sagemem_heap *heap = p->object.domain->base;
    p->desc = *desc;
    p->desc.heap = heap;
    p->desc.name = smi_pool_name(p);
    p->section = p->last = &smi_pool_none;
    p->checked = smi_checked(heap);
    p->zero = (heap->flags & SAGEMEM_HEAP_ZERO) != 0;
    p->proves = desc->object_size >= sizeof(uint64_t) && !p->checked && !smi_watched;
    p->fronted = !p->checked && !smi_watched; /* a late use is seen the longer the place is free */
    bool hooked = desc->init_fn != NULL || desc->cleanup_fn != NULL;
    p->plain = !hooked && !desc->bypass && !p->checked && !p->zero && !smi_watched;
    p->key = (smi_secret ^ (uint64_t)(uintptr_t)p) * SMI_MIX;
    bool good = smi_pool_lay_out(p, call);
    if (good && desc->initial_count > 0 && !desc->bypass) good = smi_pool_grow(p, desc->initial_count, call);
    if (!good) smi_object_end(&p->object);
    smi_leave(heap);
    return good ? p : NULL;
}

SAGEMEM_API sagemem_status sagemem_pool_get_desc(const sagemem_pool *pool, sagemem_pool_desc *out) {
    const char *call = "sagemem_pool_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_pool_desc");
    if (!smi_object_enter(pool, &smi_pool_kind, call)) return smi_mine.error.status;
    *out = pool->desc;
    smi_object_leave(&pool->object);
    return SAGEMEM_OK;
}

/* -- Allocation and free ------------------------------------------------------------------------------------------------------- */

SMI_NOINLINE void *smi_pool_alloc_slow(sagemem_pool *p) {
    const char *call = "sagemem_pool_alloc";
    if (!smi_pool_enter(p, call)) return NULL;
    void *object = smi_pool_make(p, NULL, call);
    smi_object_leave(&p->object);
    return object;
}

/* Taken by the short path, and damaged. */
SMI_NOINLINE void *smi_pool_alloc_damaged(sagemem_pool *p, const char *place) {
    char text[SMI_WHY + 120] = "";
    smi_pool_damaged(p, place, false, text, sizeof text);
    smi_pool_lose(p, place, text, "sagemem_pool_alloc");
    return NULL;
}

SAGEMEM_API void *sagemem_pool_alloc(sagemem_pool *pool) {
    bool used_before;
    char *place = SMI_LIKELY(smi_pool_quick(pool)) ? smi_pool_take(pool, &used_before) : NULL;
    if (SMI_UNLIKELY(place == NULL)) return smi_pool_alloc_slow(pool);
    if (SMI_UNLIKELY(used_before && !smi_pool_proved(pool, place))) return smi_pool_alloc_damaged(pool, place);
    return place;
}

SAGEMEM_API void *sagemem_pool_copy(sagemem_pool *pool, const void *from) {
    const char *call = "sagemem_pool_copy";
    if (from == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "from is NULL: pass the object to copy");
        return NULL;
    }
    if (!smi_pool_enter(pool, call)) return NULL;
    smi_pool_place at;
    bool ours = !pool->desc.bypass && smi_pool_find(pool, from) != NULL;
    void *object = !ours || smi_pool_locate(pool, from, &at, call) ? smi_pool_make(pool, from, call) : NULL;
    smi_object_leave(&pool->object);
    return object;
}

SMI_NOINLINE void smi_pool_free_slow(sagemem_pool *p, void *object) {
    const char *call = "sagemem_pool_free";
    char text[SMI_WHY + 120];
    smi_pool_place at;
    if (object == NULL || !smi_pool_enter(p, call)) return;
    if (smi_pool_locate(p, object, &at, call)) {
        if (at.loose == NULL && smi_pool_damaged(p, at.object, true, text, sizeof text)) {
            smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call, "%s; look for an index that is too large", text);
        } else {
            smi_pool_clean(p, object);
            smi_pool_count_free(p, 1);
            smi_pool_vacate(p, &at, call);
        }
    }
    smi_object_leave(&p->object);
}

SAGEMEM_API void sagemem_pool_free(sagemem_pool *pool, void *object) {
    smi_pool_section *s = SMI_LIKELY(smi_pool_quick(pool)) ? smi_pool_find(pool, object) : NULL;
    if (SMI_UNLIKELY(s == NULL)) {
        smi_pool_free_slow(pool, object);
        return;
    }
    size_t offset = (size_t)((char *)object - s->start), index = smi_pool_index(pool, offset);
    if (SMI_UNLIKELY(index * pool->stride != offset || smi_bit(smi_pool_map(s), index))) {
        smi_pool_free_slow(pool, object);
        return;
    }
    smi_pool_count_free(pool, 1);
    smi_pool_give(pool, s, index, (char *)object);
}

/* -- All objects ------------------------------------------------------------------------------------------------------------------ */

SAGEMEM_API void sagemem_pool_each(sagemem_pool *pool, bool (*visit)(void *ctx, void *object), void *ctx) {
    const char *call = "sagemem_pool_each";
    if (visit == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "visit is NULL: pass the function to call for each object");
        return;
    }
    if (!smi_pool_enter(pool, call)) return;
    pool->visits++;
    smi_pool_visit(pool, visit, ctx);
    pool->visits--;
    smi_object_leave(&pool->object);
}

SAGEMEM_API void sagemem_pool_reset(sagemem_pool *pool) {
    const char *call = "sagemem_pool_reset";
    if (!smi_pool_enter_alone(pool, call)) return;
    if (pool->checked) smi_pool_check(&pool->object, call);
    smi_pool_clean_all(pool);
    while (pool->oldest != NULL) {
        smi_pool_place at = {pool->oldest->block, NULL, 0, pool->oldest};
        smi_pool_vacate(pool, &at, call);
    }
    smi_pool_front_clear(pool);
    for (size_t i = 0; i < pool->section_count; i++) {
        smi_pool_section_clear(pool->sections[i]);
        if (smi_watched) smi_watch_shut(pool->sections[i]->start, pool->sections[i]->bytes);
        smi_bits_set(pool->open_map, i, 1);
    }
    pool->section = &smi_pool_none;
    pool->lowest = 0;
    smi_object_leave(&pool->object);
}

/* The sections that are left, as a list, all there to be looked at for free places. */
static void smi_pool_relist(sagemem_pool *p, size_t count) {
    p->section_count = count;
    for (size_t i = 0; i < count; i++) p->sections[i]->number = i;
    if (p->section_room > 0) memset(p->open_map, 0, p->section_room / 64 * sizeof *p->open_map);
    smi_bits_set(p->open_map, 0, count);
    p->section = p->last = &smi_pool_none;
    p->lowest = 0;
    smi_pool_front_clear(p);
    if (p->table != NULL) memset(p->table, 0, smi_pool_table_slots(p) * sizeof *p->table);
    smi_pool_table_fill(p);
    if (count == 0) p->next_places = p->desc.initial_count;
}

SAGEMEM_API uint64_t sagemem_pool_trim(sagemem_pool *pool) {
    const char *call = "sagemem_pool_trim";
    if (!smi_object_enter(pool, &smi_pool_kind, call)) return 0;
    uint64_t before = pool->held;
    size_t kept = 0;
    bool used = pool->busy || pool->visits > 0, empty; /* no misuse: a reclaimer may be called at any time */
    if (used) smi_fail(SAGEMEM_E_BUSY, 0, call, "a hook or a visit of pool '%s' is running; trim it later", smi_pool_name(pool));
    for (size_t first = 0, n; first < pool->section_count && !used; first += n) {
        n = smi_pool_block_sections(pool, first, &empty);
        if (empty) smi_pool_block_free(pool, first, n, call);
        else memmove(pool->sections + kept, pool->sections + first, n * sizeof *pool->sections);
        if (!empty) kept += n;
    }
    if (pool->held < before) smi_pool_relist(pool, kept);
    uint64_t given = before - pool->held;
    smi_object_leave(&pool->object);
    return given;
}

SAGEMEM_API void sagemem_pool_destroy(sagemem_pool *pool) {
    if (pool == NULL || !smi_pool_enter_alone(pool, "sagemem_pool_destroy")) return;
    sagemem_heap *heap = pool->object.domain->base;
    smi_object_end(&pool->object);
    smi_leave(heap);
}

SAGEMEM_API sagemem_status sagemem_pool_get_stats(const sagemem_pool *pool, sagemem_pool_stats *out) {
    const char *call = "sagemem_pool_get_stats";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_pool_stats");
    if (!smi_object_enter(pool, &smi_pool_kind, call)) return smi_mine.error.status;
    out->objects = pool->total - pool->freed;
    out->peak_objects = out->objects > pool->peak ? out->objects : pool->peak;
    out->capacity = pool->capacity;
    out->blocks = pool->blocks;
    out->held = pool->held;
    out->total_allocs = pool->total;
    smi_object_leave(&pool->object);
    return SAGEMEM_OK;
}

/* -- Recyclers --------------------------------------------------------------------------------------------------- */

#endif /* SAGEMEM_WITH_POOL */

/* ==========================================================================
 * >>arena  Chunks that are only ever filled from the front.
 * ========================================================================== */
#if SAGEMEM_WITH_ARENA

#endif /* SAGEMEM_WITH_ARENA */

/* ==========================================================================
 * >>array  Blocks that grow by a factor, blocks with addresses set aside, columns.
 * ========================================================================== */
#if SAGEMEM_WITH_ARRAY

/* -- Arrays ------------------------------------------------------------------------------------------------------ */

/* -- Columns ----------------------------------------------------------------------------------------------------- */

#endif /* SAGEMEM_WITH_ARRAY */

/* ==========================================================================
 * >>slice  Owners with a count and a serial number.
 * ========================================================================== */
#if SAGEMEM_WITH_SLICE

#endif /* SAGEMEM_WITH_SLICE */

/* ==========================================================================
 * >>map  Mapped, or read into a block: the same bytes.
 * ========================================================================== */
#if SAGEMEM_WITH_MAP

/* A failed call on a file: what was done to which one, why, and the remedy. Of a long path the end is shown. */
SAGEMEM_PRINTF(4, 5)
static sagemem_status smi_fail_file(const char *call, const char *path, const char *remedy, const char *what, ...) {
    enum { SMI_PATH_SHOWN = 90 };
    int reason = smi_os_error();
    char text[80];
    va_list args;
    va_start(args, what);
    vsnprintf(text, sizeof text, what, args);
    va_end(args);
    if (path == NULL) path = "the descriptor";
    size_t length = strlen(path);
    bool cut = length > SMI_PATH_SHOWN;
    sagemem_status status = smi_os_is_missing(reason)  ? SAGEMEM_E_NOT_FOUND
                            : smi_os_is_memory(reason) ? SAGEMEM_E_NOMEM
                                                       : SAGEMEM_E_IO;
    return smi_fail(status, reason, call, "%s%s %s: %s; %s", cut ? "..." : "", cut ? path + length - SMI_PATH_SHOWN : path, text,
                    smi_os_error_text(reason), remedy);
}

#endif /* SAGEMEM_WITH_MAP */

/* ==========================================================================
 * >>io  Writer and reader.
 * ========================================================================== */
#if SAGEMEM_WITH_IO

/* -- Writers ----------------------------------------------------------------------------------------------------- */

/* -- Readers ----------------------------------------------------------------------------------------------------- */

#endif /* SAGEMEM_WITH_IO */

/* ==========================================================================
 * >>report  One look at the counters, as text, as one line, as JSON.
 *           Reads only what >>heap counts; writes through a small buffer.
 * ========================================================================== */
#if SAGEMEM_WITH_REPORT

typedef struct smi_report_out {
    const sagemem_sink *sink;
    uint64_t offset;
    sagemem_status status;
    size_t used;
    char buffer[2048];
} smi_report_out;

static void smi_report_flush(smi_report_out *out) {
    if (out->used > 0 && out->status == SAGEMEM_OK)
        out->status = out->sink->write_fn(out->sink->ctx, out->buffer, out->used, out->offset);
    out->offset += out->used;
    out->used = 0;
}

SAGEMEM_PRINTF(2, 3)
static void smi_report_put(smi_report_out *out, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    size_t size = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (size > sizeof out->buffer - out->used) smi_report_flush(out);
    memcpy(out->buffer + out->used, line, size);
    out->used += size;
}

/* A name as a JSON string. Bytes from 0x80 on are passed through: names are UTF-8, or the program's affair. */
static void smi_report_string(smi_report_out *out, const char *text) {
    smi_report_put(out, "\"");
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') smi_report_put(out, "\\%c", c);
        else if (c < 0x20) smi_report_put(out, "\\u%04x", c);
        else smi_report_put(out, "%c", c);
    }
    smi_report_put(out, "\"");
}

/* "1.25 MiB", at most 10 characters. */
static const char *smi_report_bytes(char *text, size_t size, uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;
    double value = (double)bytes;
    for (; value >= 1024 && unit < 6; unit++) value /= 1024;
    smi_text(text, size, unit == 0 ? "%.0f %s" : value < 10 ? "%.2f %s" : value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

/* A name's part before the slash; "" when there is none. */
static size_t smi_report_group(const char *name) {
    const char *slash = strchr(name, '/');
    return slash != NULL ? (size_t)(slash - name) : 0;
}

typedef struct smi_report_tag {
    sagemem_tag_stats stats;
    uint64_t at_peak;
    const char *name;
} smi_report_tag;

/* False: nothing was ever allocated under this tag here. */
static bool smi_report_look(smi_domain *h, sagemem_tag tag, smi_report_tag *out) {
    smi_sums s = {0, 0, 0, 0};
    smi_tag_sum(h, tag, &s);
    if (s.total_blocks == 0) return false;
    smi_tag_stats_of(h, tag, &s, &out->stats);
    const smi_record *r = smi_record_find(h, tag);
    out->at_peak = r != NULL ? smi_record_at_peak(h, r) : 0;
    return true;
}

/* The first tag with blocks from `from` on; SMI_TAGS when there is none. The name is looked up without the lock that
 * naming a tag would take. */
static uint32_t smi_report_next(smi_domain *h, uint32_t from, smi_report_tag *out) {
    for (uint32_t t = from; t < SMI_TAGS; t++) {
        if (t % SMI_GROUP == 0 && h->group[t / SMI_GROUP] == NULL) {
            t += SMI_GROUP - 1;
            continue;
        }
        if (!smi_report_look(h, (sagemem_tag)t, out)) continue;
        out->name = t == SAGEMEM_UNTAGGED ? "untagged" : SMI_LOAD_ACQUIRE(&smi_tag_names[t]);
        return t;
    }
    return SMI_TAGS;
}

typedef struct smi_report_total {
    uint64_t used, peak, at_peak, blocks;
} smi_report_total;

static void smi_report_row(smi_report_out *out, const char *name, uint32_t tag, const smi_report_total *r, uint64_t peak_total) {
    char used[16], peak[16], made[16], number[16];
    if (name == NULL) smi_text(number, sizeof number, "tag %u", tag);
    double share = peak_total > 0 ? 100.0 * (double)r->at_peak / (double)peak_total : 0;
    smi_report_put(out, "  %-30.40s %10s %10s %10s %5.1f%% %12llu\n", name != NULL ? name : number,
                   smi_report_bytes(used, sizeof used, r->used), smi_report_bytes(peak, sizeof peak, r->peak),
                   smi_report_bytes(made, sizeof made, r->at_peak), share, (unsigned long long)r->blocks);
}

/* All tags of one group (a prefix of their names), and their sum when there are several. */
static void smi_report_text_group(smi_report_out *out, smi_domain *h, const char *group, size_t length, uint64_t peak_total) {
    smi_report_total sum = {0, 0, 0, 0};
    smi_report_tag row;
    int rows = 0;
    for (uint32_t t = smi_report_next(h, 0, &row); t < SMI_TAGS; t = smi_report_next(h, t + 1, &row)) {
        const char *name = row.name != NULL ? row.name : "";
        if (smi_report_group(name) != length || strncmp(name, group, length) != 0) continue;
        if (rows++ == 0 && length > 0) smi_report_put(out, "%.*s\n", (int)length, group);
        smi_report_total r = {row.stats.used, row.stats.peak, row.at_peak, row.stats.total_blocks};
        smi_report_row(out, length > 0 ? name + length + 1 : row.name, t, &r, peak_total);
        sum.used += r.used;
        sum.at_peak += r.at_peak;
        sum.blocks += r.blocks;
    }
    if (rows < 2 || length == 0) return;
    char used[16], made[16];
    smi_report_put(out, "  %-30s %10s %10s %10s %5.1f%% %12llu\n", "subtotal", smi_report_bytes(used, sizeof used, sum.used), "",
                   smi_report_bytes(made, sizeof made, sum.at_peak),
                   peak_total > 0 ? 100.0 * (double)sum.at_peak / (double)peak_total : 0, (unsigned long long)sum.blocks);
}

/* Whether an earlier tag has this one's group: then it was printed with that. */
static bool smi_report_group_seen(smi_domain *h, uint32_t tag, const char *name, size_t length) {
    smi_report_tag row;
    for (uint32_t t = smi_report_next(h, 0, &row); t < tag; t = smi_report_next(h, t + 1, &row)) {
        const char *other = row.name != NULL ? row.name : "";
        if (smi_report_group(other) == length && strncmp(other, name, length) == 0) return true;
    }
    return false;
}

static void smi_report_text_heaps(smi_report_out *out, smi_domain *h, int depth) {
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) {
        smi_sums s = {0, 0, 0, 0};
        smi_all_sum(c, &s);
        char used[16], held[16], peak[16];
        smi_report_put(out, "  %*s%-*.40s %10s %10s %10s\n", depth * 2, "", 30 - depth * 2 > 0 ? 30 - depth * 2 : 1, c->name,
                       smi_report_bytes(used, sizeof used, s.bytes), smi_report_bytes(peak, sizeof peak, smi_peak_of(c)),
                       smi_report_bytes(held, sizeof held, SMI_LOAD(&c->budget.held)));
        smi_report_text_heaps(out, c, depth + 1);
    }
}

static void smi_report_text(smi_report_out *out, smi_domain *h, const sagemem_heap_stats *s) {
    char a[16], b[16], c[16], d[16];
    smi_report_put(out, "sagemem: %s '%s'\n", h == &smi_process ? "process" : "heap", h->name);
    smi_report_put(out, "  used %s (peak %s), held %s (peak %s)", smi_report_bytes(a, sizeof a, s->used),
                   smi_report_bytes(b, sizeof b, s->used_peak), smi_report_bytes(c, sizeof c, s->held),
                   smi_report_bytes(d, sizeof d, s->held_peak));
    if (SMI_LOAD(&h->budget.limit) != 0)
        smi_report_put(out, ", limit %s", smi_report_bytes(a, sizeof a, SMI_LOAD(&h->budget.limit)));
    if (h == &smi_process) smi_report_put(out, ", resident %s", smi_report_bytes(a, sizeof a, smi_os_resident()));
    smi_report_put(out, "\n  of held: library and headers %s, reserved %s; blocks %llu now, %llu ever; scopes open %llu\n",
                   smi_report_bytes(a, sizeof a, s->overhead), smi_report_bytes(b, sizeof b, s->reserved),
                   (unsigned long long)s->blocks, (unsigned long long)s->total_blocks, (unsigned long long)s->scopes);
    smi_report_put(out, "\n  %-30s %10s %10s %10s %6s %12s\n", "tag", "used", "peak", "at peak", "share", "blocks ever");
    smi_report_tag row;
    smi_report_total total = {s->used, s->used_peak, 0, s->total_blocks};
    bool untagged = false;
    for (uint32_t t = smi_report_next(h, 0, &row); t < SMI_TAGS; t = smi_report_next(h, t + 1, &row)) {
        const char *name = row.name != NULL ? row.name : "";
        size_t length = smi_report_group(name);
        total.at_peak += row.at_peak;
        untagged |= t == SAGEMEM_UNTAGGED;
        if (!smi_report_group_seen(h, t, name, length)) smi_report_text_group(out, h, name, length, s->used_peak);
    }
    smi_report_row(out, "total", 0, &total, s->used_peak);
    if (untagged) smi_report_put(out, "  (untagged blocks have no purpose yet: give their allocations a tag)\n");
    if (h->children == NULL) return;
    smi_report_put(out, "\n  %-30s %10s %10s %10s\n", "heap", "used", "peak", "held");
    smi_report_text_heaps(out, h, 0);
}

static void smi_report_brief(smi_report_out *out, smi_domain *h, const sagemem_heap_stats *s) {
    char a[16], b[16], c[16];
    smi_report_tag row, most;
    memset(&most, 0, sizeof most);
    uint32_t which = SMI_TAGS;
    for (uint32_t t = smi_report_next(h, 0, &row); t < SMI_TAGS; t = smi_report_next(h, t + 1, &row)) {
        if (which < SMI_TAGS && row.at_peak <= most.at_peak) continue;
        most = row;
        which = t;
    }
    smi_report_put(out, "sagemem: %s used %s, peak %s, held %s", h->name, smi_report_bytes(a, sizeof a, s->used),
                   smi_report_bytes(b, sizeof b, s->used_peak), smi_report_bytes(c, sizeof c, s->held));
    if (which < SMI_TAGS && most.name != NULL)
        smi_report_put(out, "; most at peak: %s %s", most.name, smi_report_bytes(a, sizeof a, most.at_peak));
    smi_report_put(out, "\n");
}

static void smi_report_number(smi_report_out *out, const char *key, uint64_t value, bool first) {
    smi_report_put(out, "%s\"%s\": %llu", first ? "" : ", ", key, (unsigned long long)value);
}

static void smi_report_json_heaps(smi_report_out *out, smi_domain *h, bool *first) {
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) {
        smi_sums s = {0, 0, 0, 0};
        smi_all_sum(c, &s);
        smi_report_put(out, "%s\n    {\"heap\": ", *first ? "" : ",");
        *first = false;
        smi_report_string(out, c->name);
        smi_report_put(out, ", \"parent\": ");
        smi_report_string(out, h->name);
        smi_report_number(out, "used", s.bytes, false);
        smi_report_number(out, "peak", smi_peak_of(c), false);
        smi_report_number(out, "held", SMI_LOAD(&c->budget.held), false);
        smi_report_number(out, "limit", SMI_LOAD(&c->budget.limit), false);
        smi_report_number(out, "blocks", s.blocks, false);
        smi_report_put(out, "}");
        smi_report_json_heaps(out, c, first);
    }
}

/* Open scopes of the heap and all below, outermost first. */
static void smi_report_json_scopes(smi_report_out *out, smi_domain *h, bool *first) {
    smi_lock_take(&h->lock);
    for (const smi_domain *s = h->inner; s != NULL; s = s->inner) {
        smi_report_put(out, "%s\n    {\"scope\": ", *first ? "" : ",");
        *first = false;
        smi_report_string(out, s->name);
        smi_report_number(out, "id", s->id, false);
        smi_report_put(out, ", \"heap\": ");
        smi_report_string(out, h->name);
        smi_report_number(out, "used", SMI_LOAD(&s->sum), false);
        smi_report_number(out, "peak", smi_peak_of(s), false);
        smi_report_number(out, "held", SMI_LOAD(&s->budget.held), false);
        smi_report_put(out, "}");
    }
    smi_lock_give(&h->lock);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_report_json_scopes(out, c, first);
}

static void smi_report_json(smi_report_out *out, smi_domain *h, const sagemem_heap_stats *s) {
    smi_report_put(out, "{\"schema\": \"sagemem-report-1\",\n \"%s\": {\"name\": ", h == &smi_process ? "process" : "heap");
    smi_report_string(out, h->name);
    smi_report_number(out, "used", s->used, false);
    smi_report_number(out, "peak", s->used_peak, false);
    smi_report_number(out, "held", s->held, false);
    smi_report_number(out, "held_peak", s->held_peak, false);
    smi_report_number(out, "resident", smi_os_resident(), false);
    smi_report_number(out, "limit", SMI_LOAD(&h->budget.limit), false);
    smi_report_number(out, "blocks", s->blocks, false);
    smi_report_number(out, "total_blocks", s->total_blocks, false);
    smi_report_number(out, "overhead", s->overhead, false);
    smi_report_number(out, "mapped", s->mapped, false);
    smi_report_number(out, "huge_page_bytes", s->huge_page_bytes, false);
    smi_report_number(out, "reserved", s->reserved, false);
    smi_report_put(out, "},\n \"tags\": [");
    smi_report_tag row;
    bool first = true;
    for (uint32_t t = smi_report_next(h, 0, &row); t < SMI_TAGS; t = smi_report_next(h, t + 1, &row)) {
        char number[16];
        smi_text(number, sizeof number, "tag %u", t);
        smi_report_put(out, "%s\n    {\"tag\": ", first ? "" : ",");
        first = false;
        smi_report_string(out, row.name != NULL ? row.name : number);
        smi_report_number(out, "used", row.stats.used, false);
        smi_report_number(out, "peak", row.stats.peak, false);
        smi_report_number(out, "blocks", row.stats.blocks, false);
        smi_report_number(out, "peak_blocks", row.stats.peak_blocks, false);
        smi_report_number(out, "total_blocks", row.stats.total_blocks, false);
        smi_report_number(out, "total_bytes", row.stats.total_bytes, false);
        smi_report_number(out, "at_peak", row.at_peak, false);
        smi_report_put(out, "}");
    }
    smi_report_put(out, "],\n \"heaps\": [");
    first = true;
    smi_report_json_heaps(out, h, &first);
    smi_report_put(out, "],\n \"scopes\": [");
    first = true;
    smi_report_json_scopes(out, h, &first);
    smi_report_put(out, "]}\n");
}

SAGEMEM_API sagemem_status sagemem_report(const sagemem_heap *heap, sagemem_format format, const sagemem_sink *to) {
    const char *call = "sagemem_report";
    if (to == NULL || to->write_fn == NULL)
        return smi_fail(
            SAGEMEM_E_ARGUMENT, 0, call,
            "the report needs a sink with a write_fn; sagemem_report_file(heap, format, \"-\") writes to standard output");
    if ((unsigned)format > SAGEMEM_FORMAT_JSON)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "format %d is unknown; use SAGEMEM_FORMAT_TEXT, _BRIEF or _JSON", (int)format);
    smi_domain *h = heap != NULL ? (smi_domain *)(uintptr_t)heap : &smi_process;
    sagemem_heap_stats s;
    sagemem_status status = sagemem_heap_get_stats(heap, &s); /* brings the peaks up to date, too */
    if (status != SAGEMEM_OK) return status;
    smi_report_out out;
    out.sink = to;
    out.offset = 0;
    out.used = 0;
    out.status = SAGEMEM_OK;
    smi_lock_take(&smi_registry_lock);
    if (format == SAGEMEM_FORMAT_TEXT) smi_report_text(&out, h, &s);
    else if (format == SAGEMEM_FORMAT_BRIEF) smi_report_brief(&out, h, &s);
    else smi_report_json(&out, h, &s);
    smi_lock_give(&smi_registry_lock);
    smi_report_flush(&out);
    if (to->close_fn != NULL) {
        sagemem_status closed = to->close_fn(to->ctx);
        if (out.status == SAGEMEM_OK) out.status = closed;
    }
    return out.status;
}

static sagemem_status smi_report_write_file(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)offset;
    if (!smi_os_fails() && fwrite(data, 1, size, (FILE *)ctx) == size) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_IO, smi_os_error(), "sagemem_report_file", "writing the report failed: %s", strerror(smi_os_error()));
}

SAGEMEM_API sagemem_status sagemem_report_file(const sagemem_heap *heap, sagemem_format format, const char *path) {
    const char *call = "sagemem_report_file";
    if (path == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "path is NULL: pass a file name, or \"-\" for standard output");
    if ((unsigned)format > SAGEMEM_FORMAT_JSON) /* before the file is emptied */
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "format %d is unknown; use SAGEMEM_FORMAT_TEXT, _BRIEF or _JSON", (int)format);
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdout : smi_os_fails() ? NULL : fopen(path, "w");
    if (file == NULL)
        return smi_fail(SAGEMEM_E_IO, smi_os_error(), call, "'%s' cannot be opened for writing: %s", path,
                        strerror(smi_os_error()));
    sagemem_sink sink = {smi_report_write_file, NULL, file};
    sagemem_status status = sagemem_report(heap, format, &sink);
    bool written = standard ? fflush(file) == 0 : fclose(file) == 0;
    if (status == SAGEMEM_OK && !written)
        status = smi_fail(SAGEMEM_E_IO, smi_os_error(), call, "'%s' could not be written: %s", path, strerror(smi_os_error()));
    return status;
}

static bool smi_report_exit_set;
static sagemem_format smi_report_exit_format;
static char smi_report_exit_path[1024];
static int smi_report_exit_status;

static void smi_report_exit(void) {
    if (smi_report_exit_path[0] != '\0' && sagemem_report_file(NULL, smi_report_exit_format, smi_report_exit_path) != SAGEMEM_OK)
        smi_log(SAGEMEM_LOG_ERROR, "report at exit: %s", smi_mine.error.message);
    sagemem_heap_stats s;
    if (smi_report_exit_status == 0 || sagemem_heap_get_stats(NULL, &s) != SAGEMEM_OK || s.blocks == 0) return;
    smi_log(SAGEMEM_LOG_ERROR, "%llu blocks with %llu bytes were never freed", (unsigned long long)s.blocks,
            (unsigned long long)s.used);
    fflush(NULL); /* _Exit does not, and exit must not be called again */
    _Exit(smi_report_exit_status);
}

SAGEMEM_API sagemem_status sagemem_report_at_exit(sagemem_format format, const char *path, int leak_exit_status) {
    const char *call = "sagemem_report_at_exit";
    smi_start();
    if ((unsigned)format > SAGEMEM_FORMAT_JSON || (path != NULL && strlen(path) >= sizeof smi_report_exit_path))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "the format is unknown or the path longer than 1023 bytes");
    smi_lock_take(&smi_registry_lock);
    smi_report_exit_format = format;
    smi_text(smi_report_exit_path, sizeof smi_report_exit_path, "%s", path != NULL ? path : "");
    smi_report_exit_status = leak_exit_status;
    bool first = !smi_report_exit_set;
    smi_report_exit_set = true;
    smi_lock_give(&smi_registry_lock);
    if (!first || (!smi_os_fails() && atexit(smi_report_exit) == 0)) return SAGEMEM_OK;
    smi_report_exit_set = false;
    return smi_fail(SAGEMEM_E_NOMEM, 0, call, "atexit takes no more functions; call sagemem_report_file at the end of main");
}

#endif /* SAGEMEM_WITH_REPORT */

#undef SMI_ADD
#undef SMI_ASSUME
#undef SMI_ASAN
#undef SMI_ATOMIC_ADD
#undef SMI_ATOMIC_SUB
#undef SMI_CAS
#undef SMI_INLINE
#undef SMI_LIKELY
#undef SMI_LOAD
#undef SMI_LOAD_ACQUIRE
#undef SMI_LOCK_INIT
#undef SMI_MAP_ANONYMOUS
#undef SMI_MAP_NORESERVE
#undef SMI_FOR_LAYERS
#undef SMI_NOINLINE
#undef SMI_PEEKS
#undef SMI_STORE
#undef SMI_STORE_RELEASE
#undef SMI_SUB
#undef SMI_UNLIKELY
#undef SMI_VALGRIND
#ifdef SMI_UNDEF_SOURCE
#undef _DEFAULT_SOURCE
#undef SMI_UNDEF_SOURCE
#endif

#endif /* SAGEMEM_IMPLEMENTED */
#endif /* SAGEMEM_IMPLEMENTATION */

#if defined(SAGEMEM_SITES) && !defined(SAGEMEM_SITES_DEFINED)
#define SAGEMEM_SITES_DEFINED
#define sagemem_alloc(heap, size, tag) sagemem_alloc_at((heap), (size), (tag), __FILE__, __LINE__)
#define sagemem_calloc(heap, count, size, tag) sagemem_calloc_at((heap), (count), (size), (tag), __FILE__, __LINE__)
#define sagemem_realloc(heap, block, size, tag) sagemem_realloc_at((heap), (block), (size), (tag), __FILE__, __LINE__)
#define sagemem_free(block) sagemem_free_at((block), __FILE__, __LINE__)
#define sagemem_strdup(heap, text, tag) sagemem_strdup_at((heap), (text), (tag), __FILE__, __LINE__)
#endif

/*
 * This software is available under two licences. Choose whichever you prefer.
 *
 * --------------------------------------------------------------------------------
 * ALTERNATIVE A - MIT License
 *
 * Copyright (c) 2026 the sagemem authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of
 * this software and associated documentation files (the "Software"), to deal in
 * the Software without restriction, including without limitation the rights to
 * use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies
 * of the Software, and to permit persons to whom the Software is furnished to do
 * so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all
 * copies or substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
 * FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
 * AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
 * LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
 * OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
 * SOFTWARE.
 *
 * --------------------------------------------------------------------------------
 * ALTERNATIVE B - Public Domain (www.unlicense.org)
 *
 * This is free and unencumbered software released into the public domain.
 *
 * Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
 * software, either in source code form or as a compiled binary, for any purpose,
 * commercial or non-commercial, and by any means.
 *
 * In jurisdictions that recognize copyright laws, the author or authors of this
 * software dedicate any and all copyright interest in the software to the public
 * domain. We make this dedication for the benefit of the public at large and to
 * the detriment of our heirs and successors. We intend this dedication to be an
 * overt act of relinquishment in perpetuity of all present and future rights to
 * this software under copyright law.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
 * FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
 * AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
 * ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
 * WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 */
