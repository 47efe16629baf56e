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
 *                     arrays and columns - slices - maps - writers - readers - streams - indexes - reports - limits and
 *                     peaks - threads, fork, signals - errors - what is caught where - caveats - security - the inside
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
 *                     >>stream   a reader's input in chunks of records, on one thread or many
 *                     >>index    records of a map by number, saved
 *                     >>report   reports, snapshots, leaks; failures on purpose; call sites
 *                     >>with-hdf5  datasets of HDF5 as sink and source; only if asked for
 *     Implementation  >>os       pages, locks, threads, clocks, atomics, files; tools that watch
 *                     >>log      messages; the structures of everything below
 *                     >>budget   the tree of limits
 *                     >>pages    the library's own memory, page map, regions, spans
 *                     >>heap     tags, counting, chunks, slab pages, huge blocks, scopes, validation
 *                     >>limits   the public side of >>budget; sources of pages
 *                     >>pool >>arena >>array >>slice >>map >>io >>stream >>index
 *                     >>report
 *                     >>with-hdf5
 *
 * QUICK START (this compiles as it stands)
 *
 *     #define SAGEMEM_IMPLEMENTATION
 *     #include "sagemem.h"
 *     #include <stdio.h>
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
 *     structure of a heap                            8 KiB; of a page 256 bytes; of 16 tags 4 KiB in each heap and scope;
 *                                                    of a tag with slab pages 4 KiB in each heap;
 *                                                    what a heap remembers of its scopes 4 KiB
 *     the page map and its cache                     16 bytes for 16 KiB of pages in use (0.1 %), not counted as held;
 *                                                    4 MiB of the program's zeroed data are set aside for the cache
 *     largest block                                  half of the address space
 *     tags 4095, names of 63 bytes, heaps and scopes without limit
 *     a freed block is found by                      one load from the cache, where 8 GiB of addresses have room; else two
 *                                                    and a comparison; for any pointer at all
 *     time                                           of allocation and free: constant, but when a page changes hands;
 *                                                    of scope end and heap destruction: pages and tags, not blocks;
 *                                                    of statistics: pages and tags; of a snapshot the same, 30 to 70 ns
 *                                                    for each tag of each heap
 *     what an idle heap may keep                     1 MiB of empty slab pages, one more for each (tag, size class) in
 *                                                    use, 1 MiB of chunks for its next scope: until sagemem_trim
 *     what the process may keep                      free pages of its regions, for purge_delay_ms of the heap that
 *                                                    freed them [1 s] and until a page is next taken or freed; mappings
 *                                                    above 16 MiB that a scope left, until then
 *
 *     When memory runs out the call returns NULL or a status, nothing is changed, and it can be repeated.
 *
 * ALGORITHMS, AND WHERE THEY ARE WEAK
 *
 *     A long-lived heap serves small blocks from slab pages: one size class of one tag, no header, and counters that
 *     lie beside the page's free list, so that exact accounting costs no line that the call does not touch anyway. A
 *     (tag, class) gets slab pages only once it has nearly two pages' worth of blocks or is allocated often; till then its
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
 *     SAGEMEM_WITH_IO         1        that of the implementation   the functions of >>io, >>stream and >>index; needs
 *                                                                   SAGEMEM_WITH_MAP
 *     SAGEMEM_WITH_REPORT     1        that of the implementation   the functions with report, snapshot or leaks in their names
 *     SAGEMEM_WITH_HDF5       0        and those that call them     the functions of >>with-hdf5, and hdf5.h; needs SAGEMEM_WITH_IO
 *
 *     No option changes a structure, a signature or an enumerator. A function that was left out is a link error that
 *     names it: pool and recycler are >>pool; columns >>array; write, read and whatever has writer, reader, stream or
 *     index in its name >>io (sagemem_index_slice: and >>slice). Mixed versions in one program do not link
 *     (sagemem_version_0_1). Whatever only tunes is a field of a _desc. C11 or C++11 for the implementation, C99 or C++11 for
 *     the declarations; gcc or clang. With a strict -std=c11 include this header before system headers, or an #error says so.
 *
 * OBJECTS
 *
 *     Pools, recyclers, arenas, columns, maps, writers, readers and indexes are objects made from a heap; arrays and slices are
 *     structs that you declare and that name a block of it. All follow the same rules:
 *     - _create and _open take a _desc whose zeroes are defaults; _get_desc tells what became of them. What a desc points to
 *       is copied.
 *     - An object belongs to the scope that is open in its heap when it is made, or to the heap. All it ever takes comes from
 *       there, under the tag of its desc, whatever scope is open when it grows; so it shows in the report and under limits.
 *     - It ends when it is destroyed or closed, or with its scope or heap: last made first, clean-ups of sagemem_scope_defer
 *       among them. An object made outside of a scope may be used and destroyed inside, not the other way round.
 *     - One that is used after its end (until 64 more have ended), by another thread than its heap's, or is none at all goes
 *       to the fault handler (E_STALE, E_BUSY, E_FOREIGN). In a SAGEMEM_HEAP_SHARED heap any thread may use it, one at a time.
 *     - Hooks, sinks and sources may use the library, but not the object that called them (E_BUSY), and return: jumping out
 *       of them leaves the object busy.
 *     - A failure changes nothing, and the call can be repeated. sagemem_heap_check looks into objects, too.
 *
 * POOLS
 *
 *     For objects of one size that come and go: galaxies, halos, list nodes, messages. A pool takes blocks from its heap, of a
 *     page first and up to 1 MiB, and hands out places in them; nothing is added to an object but what its alignment asks
 *     for (give alignment 1 to 8 to have small objects packed). SAGEMEM_POOL_OF makes typed calls:
 *
 *         SAGEMEM_POOL_OF(galaxy_pool, struct GALAXY);
 *         sagemem_pool *pool = galaxy_pool_create(&desc);     // desc: heap, tag, hooks; or NULL
 *         struct GALAXY *galaxy = galaxy_pool_alloc(pool);    // ... galaxy_pool_free(pool, galaxy)
 *
 *     Hooks make, copy and free what an object owns: init_fn, copy_fn, cleanup_fn. cleanup_fn runs for each object that is
 *     left when the pool is reset or destroyed, or when its scope ends.
 *
 *     Which places are free is told by maps apart from them, 2 bits an object. So a double free is seen exactly, at once, and
 *     so are pointers into objects, of other pools, of none. What is allocated in a row lies in a row, whatever was freed
 *     before in whatever order: a loop over 500,000 such objects of 64 to 704 bytes took 0.4 to 0.8 of the time that it took
 *     over those of a list of free places. A place that was written to while it was free (its first 8 bytes; any byte in a
 *     SAGEMEM_HEAP_CHECKED heap, which also puts 16 bytes behind each object) is seen when it would be handed out, and by
 *     sagemem_heap_check; it is not used again. Objects below 8 bytes are not watched that way.
 *     bypass = true makes each object a block of the heap: the same results, and every check of the heap.
 *
 *     Weak: a block goes back only when all its objects are free, by sagemem_pool_trim; hooks, and zeroing, checked or shared
 *     heaps, take a longer way; an allocation and its free take 2 to 5 times as long as with a bare list of free places, about
 *     as long as a block of a heap. An object that is reused at once hides a late use: look for it in a checked heap, or
 *     with a tool. A hook or a visit that is left by longjmp leaves its pool refusing calls (E_BUSY) until its scope ends.
 *
 * RECYCLERS
 *
 *     For buffers of many sizes that come and go: read buffers, sequences, messages. What is released is kept and handed
 *     out again, the best fit first, without asking the heap:
 *
 *         sagemem_recycler *r = sagemem_recycler_create(NULL);
 *         char *buffer = (char *)sagemem_recycler_acquire(r, 70000);     // sagemem_size(buffer) bytes, undefined
 *         sagemem_recycler_release(r, buffer);                           // kept for the next one of about 35 to 70 KB
 *         sagemem_recycler_destroy(r);                                   // frees all buffers, also those that are out
 *
 *     A buffer fits when it has the size asked for and at most `slack` times as much; of several the smallest is taken, of
 *     those the one released last, whose bytes are still in the cache. max_idle_bytes and max_idle_count bound what is
 *     kept: what was released longest ago goes first. Before a limit makes a call fail, all that is idle is freed; for
 *     limits met elsewhere call sagemem_recycler_trim in a reclaimer. Buffers are ordinary blocks of the tag, idle ones too:
 *     they count as used. Acquire and release are logarithmic in the number of idle buffers, and 64 bytes of the library's
 *     own memory go with each buffer.
 *     Caught at once: a pointer that is no buffer of it, a buffer released twice; one freed or resized by another call, when
 *     it is released, used again or its address comes back. A write to an idle buffer is seen by Valgrind and
 *     AddressSanitizer, and in a checked heap when the buffer is used again or freed, and by sagemem_heap_check.
 *     Not for small objects of one size (a pool is faster and denser), nor where sizes never recur.
 *
 * ARENAS
 *
 *     For many small things that go together: names of a catalogue, a parsed file, the scratch of one step. Make an arena,
 *     allocate or put, then rewind to a mark, reset, or let its scope end; nothing is freed by itself. What must survive
 *     growth of an array of addresses, another process or a file is put, and named by a ref of 16 bytes; sagemem_arena_get
 *     finds it by two loads, sagemem_arena_save and _load carry all of it, and refs stay as they are.
 *
 *     bytes added to what is put                     none; to what is allocated up to 15, for its alignment
 *     bytes added to a chunk                         16, and 8 by the heap; the last chunk is half empty on average
 *     a chunk's end is left empty                    for what is at most a quarter of a chunk, so by at most that
 *     rewind, reset                                  chunks, not things; peak memory is kept until sagemem_arena_trim
 *     an image                                       64 bytes, 16 for each chunk, and what is used; CRC-32C over all of it
 *
 *     When memory or max_bytes is short an arena gives its spare chunks back, then makes a chunk just large enough.
 *     Caught at once: a mark that was rewound past, or of another arena; a ref outside of what is used; an ended arena, or
 *     one that ended with its scope; sagemem_free of something in it (E_FOREIGN); every change to an image, by the first
 *     call that reads it. When the chunk is freed, and by sagemem_heap_check: writes in front of the first thing of a chunk;
 *     behind the last one as of any block. Valgrind and AddressSanitizer see the ends of what was allocated (of what was put
 *     only the last) and late use after a rewind.
 *     Not caught: writing from one thing into the next; an address or a ref that is used after a rewind, once there is
 *     something new. Not for things that end one by one (a pool), nor for one that grows (an array): it would stay behind
 *     with each size.
 *
 * ARRAYS AND COLUMNS
 *
 *     Code that grows by a fixed step copies n^2 / (2 * step) elements; by a factor of 1.5 it copies at most 3 n, in log n
 *     steps. In existing code one call replaces `maxgals += 10000; realloc(...)`; the block keeps its heap, scope and tag:
 *
 *         if (n == max && sagemem_array_grow((void **)&galaxies, sizeof *galaxies, &max, n + 1, 0) != SAGEMEM_OK) return -1;
 *
 *     (a count kept as int goes through a size_t and back). For a tag, make the first block with sagemem_alloc.
 *     New code says SAGEMEM_ARRAY_OF(galaxy_array, struct GALAXY); and pushes: a comparison and a copy, inline. The elements
 *     are one block, used to its last byte, and a block like any other for visits and reports; to carry them out of a
 *     scope, array.data = sagemem_keep(array.data). Where memory is short of the factor, less is asked for, at the least what
 *     is needed. Addresses of elements end with each growth: keep indices, or let the array never move.
 *     stable_max makes an array that never moves. Addresses for so many elements are set aside (terabytes are fine, nothing
 *     is charged) and become memory in steps: held is at most 1/64 and 80 KiB more than the most elements ever took, where
 *     a copy to 1.5 times the size needs 2.5 times the data at once. So it may fill nearly all of memory. A step is a system
 *     call: 64 of them in the first 4 MiB, then 45 to 64 for each doubling; 16 KiB are the least, so not for many small arrays.
 *     Where pushes make it grow from 1 MiB on, a step is backed by memory at once; beyond 128 MiB huge pages are asked for,
 *     and whether there are any is the system's policy (transparent_hugepage; prctl(PR_SET_THP_DISABLE) for one process).
 *     `ulimit -v` counts the addresses: give a smaller stable_max. sagemem_realloc past stable_max, sagemem_move and a new
 *     tag copy the elements into an ordinary block. Heaps with a source, _SYSTEM and _CHECKED ones take all of it at once.
 *     Columns keep each field of a record in an array of its own, at a multiple of 64, all in one block: a loop over one
 *     field reads nothing else. When they grow, old and new are there at once.
 *     Caught at once: a zeroed array; one that grows, shrinks or ends after its scope or heap has ended, after its block was
 *     freed, or in another thread; columns in every call. Under Valgrind and AddressSanitizer each element past the count
 *     is out of bounds. Not caught otherwise: writing past the count, a push into room that was left when the scope ended,
 *     two copies of one struct.
 *
 * SLICES
 *
 *     A slice is a pointer and a length that knows who keeps the bytes: parts of a mapped file or of a text read once can be
 *     handed to several owners, none of which copies, and the bytes go with the last of them, in whichever thread that is:
 *
 *         sagemem_slice text = sagemem_slice_copy(NULL, data, size, TAG_TEXT), name;    // or _take a block, or _wrap
 *         if (sagemem_slice_sub(text, 10, 20, &name) != SAGEMEM_OK) ...                 // shares the bytes
 *         sagemem_slice_release(text);                                                  // name keeps them
 *         sagemem_slice_release(name);                                                  // now they go
 *
 *     The struct is passed by value and may be copied; each slice that a call returned is released once, by whoever has it
 *     last. Retain, sub and release are one compare-exchange, at a few loads; copy, take, wrap and the last release take a
 *     lock for a moment. 64 bytes of the library's own memory go with each set of shared bytes, and are used again.
 *     Caught at once: a slice used or released after the last release of its bytes, exactly, however often their place
 *     has been used since, on any thread (E_STALE); one that outlived the scope or heap of its block (E_STALE; not, once a
 *     thread has ended that left the scope open); a struct that no call filled in (E_FOREIGN). A block that was taken is the
 *     slice's: freeing it elsewhere is found when it goes, resizing or keeping it is not.
 *     Weak: one struct released twice while other slices of the bytes live takes the count of one of those, and is found at
 *     their release. An update of the count costs as much as a cache line's way between threads that share it.
 *     A part keeps the whole: copy a few bytes out of a large text that is to go.
 *
 * MAPS
 *
 *     A file as memory, for what is looked at here and there, more than once, or is larger than memory: a catalogue, a
 *     table, a snapshot. Fill a desc, open, and take sagemem_map_view of the bytes you want, checked against the size; or
 *     sagemem_map_data and the size. Any offset and length will do. Where mapping is off (no_mapping, threshold) or fails,
 *     the same calls read the same bytes into a block of the tag; an address is as aligned as its position in the file,
 *     up to 64, in both. One way through a file, or a pipe: >>io.
 *
 *     figures        a view without a window: some ten loads, no lock, no system call; of a window: the same while it
 *                    stays inside, one mmap and one munmap when it slides. sagemem_map_read: one pread
 *     counted as     `mapped` of the heap, from the page of the first byte to the last: neither used nor held, no limit;
 *                    what is read: as a block. A window: at most its size, or what an unaligned view needs beside it
 *     a window       begins where the view does: made for going forwards; going backwards it slides with each view
 *     written        _WRITE: at flush and close, with the disk; a scope or heap that ends flushes too, and logs what failed.
 *                    A copy that was read is written back whole, over what others wrote meanwhile, by the process that
 *                    opened it alone: a child's copy after fork is its own
 *     cut short      sagemem_map_read says E_IO and where the file ends now; a view of such bytes is a SIGBUS, as with any
 *                    mapping. A _PRIVATE map is read by process_vm_readv; where that is missing or forbidden (some
 *                    containers, not Linux) the file's size is looked at first, and a moment is left for the signal
 *     caught         past the end, more than the window: the call fails. Ended, foreign, another thread's: fault handler.
 *                    One byte past the end, or an old view of a window: under Valgrind and AddressSanitizer alone
 *     wishes         access, populate, huge_pages; NUMA has an effect on what is written to a _PRIVATE map and on tmpfs:
 *                    the system's cache of other files lies where it lies. For bytes that are read: the heap's source
 *     not for        FIFOs and devices (refused, without waking who waits there), /proc (its files say that they are empty:
 *                    so is the map), files that others rewrite in place
 *
 * WRITERS
 *
 *     Many small records, few system calls, and no byte lost in silence. There is one way: open, write (or build the
 *     record in the buffer between write_begin and write_end), close, and look at what close returns.
 *     sagemem_write that returned OK has accepted: the bytes reach the target, or an error says that they did not. A
 *     failed call has accepted nothing and can be repeated; it tries what is pending first. A failed close has dropped
 *     nothing: make room on the disk and close again, or abandon. A scope that ends, or exit, with bytes pending logs an
 *     error with the path and their number. Neither SIGPIPE nor SIGXFSZ kills the program: they are errors.
 *     Positions are absolute and explicit (pwrite): two writers may share a descriptor, and a header can be patched once
 *     its numbers are known. What has no positions (pipe, socket, O_APPEND) is written in order.
 *     atomic: the new content is made in .NAME.sagemem-PID-N beside the target, which is locked while it is open and takes
 *     the target's place at close. Who reads sees the old file or the new one, whatever kills the writer; what it left
 *     is removed when the path is next opened so (which reads the directory). Against power cuts add SAGEMEM_SYNC_AT_CLOSE.
 *     The buffer: 1 MiB is as fast as any (8 MiB is slower, by the caches); a record costs its copy and about 3 ns. Where 64
 *     files are open, sagemem_writers_set_budget bounds the buffers of all, and adaptive lets each find its size. background
 *     hides the time of slow targets; to a file in the page cache it gains little.
 *     A sink is a target of the program's own: sagemem_hdf5_sink is one that appends records to a dataset of HDF5 (with
 *     SAGEMEM_WITH_HDF5): one by one 50 times as fast as H5PTappend, and records need no buffer of the program's.
 *     Caught at once: a closed writer or one of an ended scope, another thread's, a write_end without begin or past the
 *     room. Bytes in the buffer past the record are shut to Valgrind and AddressSanitizer.
 *     Not for: reading back what was written (flush, then sagemem_map or a reader), or many threads on one file without
 *     a SAGEMEM_HEAP_SHARED heap. A descriptor that does not block may fail with EAGAIN: repeat when it can take more.
 *
 * READERS
 *
 *     One way to read a file, a pipe, a device or a function of the program's: in order, by sagemem_read (copied) or
 *     sagemem_read_view (where the bytes lie). Views fit records: a header's size, then as many bytes as it says.
 *
 *         regular files               mapped; views point into the map and last until close
 *         ... smaller than            read with pread into a buffer of buffer_bytes. The position is the reader's own: of a
 *         map_threshold, or             descriptor that others share, too
 *         no_mapping, or unmappable
 *         pipes, sockets, devices     read with read, never more than is there, and only forwards
 *         sagemem_input               read_fn is called
 *
 *     From a buffer, a call is a comparison and a copy, or no copy; a system call comes once in a buffer. A view larger than
 *     the buffer makes it grow to that size, and it stays so. A read of a buffer or more at once goes past it.
 *     read_ahead: a thread fills the next buffers meanwhile, which pays where reading waits (disks, networks, decompression
 *     in read_fn) and costs where it does not. Closing never waits for a silent pipe; it does for a read_fn. Of a mapped file
 *     the system is asked for the bytes ahead. Memory: buffers * buffer_bytes, all taken when the reader is opened.
 *     After any failure what was got is good, nothing is lost, and the call can be repeated. The end is no state: a file that
 *     grows goes on, unless it is mapped.
 *     Caught: calls on a reader that was closed, or whose scope ended, and by another thread; with Valgrind or AddressSanitizer
 *     the use of a view that has ended, or past its end (not of mapped files).
 *     Weak: a mapped file that somebody cuts short is a SIGBUS: for such files no_mapping. A call that waits for bytes holds a
 *     SAGEMEM_HEAP_SHARED heap, fork included: give that reader a heap of its own. After fork a reader reads on in both
 *     processes (of a pipe, each byte goes to one of them); but one that reads ahead from anything but a file is the parent's:
 *     E_BUSY in the child. On Windows a silent pipe is looked at every 5 ms.
 *
 * STREAMS
 *
 *     For what goes by once: more than fits in memory, or comes through a pipe. sagemem_stream_run takes a reader and calls
 *     process_fn with one chunk after the other, each of them whole records: lines, records of one size, or what a function of the
 *     program's says. Chunks are the same wherever the bytes come from and however many threads there are.
 *
 *         stream.reader = reader;                      // a file, a pipe, sagemem_input
 *         stream.delimiter_plus_one = '\n' + 1;
 *         stream.process_fn = count;                   // count(ctx, data, size, offset)
 *         stream.threads = 4, stream.unordered = true; // or none, and the next chunk begins when this one is done
 *         if (sagemem_stream_run(&stream) != SAGEMEM_OK) ...
 *
 *     one thread     the chunk lies in the map or in the reader's buffer: nothing is copied. After a failure, or when process_fn
 *                    stops it, the reader stands at the first byte that was not processed, and another run goes on there
 *     threads        the caller reads and, when all buffers are full, works with the others. What is not mapped is copied once.
 *                    A chunk costs some microseconds of waking: give it 64 KiB and more where that can be
 *     unordered      process_fn is called at the same time, by `threads` threads; else in order, one call after the other,
 *                    while the caller reads on (two threads; more have nothing to do)
 *     memory         the reader's, which grows to a chunk or the longest record, and with threads buffer_count + threads copies
 *                    of that size; of a mapped file, no copies
 *     read-ahead     is the reader's, with 3 buffers: give its desc read_ahead where reading waits
 *     chunk_records  a chunk is processed as soon as it has them: 1 for a conversation through a pipe
 *     failures       the first in the input, whichever came first in time; what lies before it has been processed. With threads,
 *                    a failure also ends the wait for a silent pipe
 *
 *     Weak: a source whose read_fn waits is waited for, also by a stream that has failed. A process_fn that forks must not
 *     return in the child, and none may jump out. With threads, what waited when the stream stopped is gone, of a pipe for
 *     good. boundary_fn is asked again from the start of a record that was not complete, with twice the bytes each time.
 *
 * INDEXES
 *
 *     For records that are wanted again, by number: sequences of a FASTA file, lines of a catalogue, blocks of a snapshot.
 *     sagemem_index_build looks through a map once; sagemem_index_get tells where a record lies, _view shows it, _slice shares it,
 *     _find goes the other way. Records lie one behind the other; delimiters belong to them; FASTA records begin with a '>' at the
 *     start of a line, what is in front of the first belongs to none, and '\n' ends a line. A map with a window will do.
 *
 *         sagemem_index *index = sagemem_index_load(map, "genes.fa.index", &desc);     // E_NOT_FOUND, _STALE, _CORRUPT, ...:
 *         if (index == NULL) index = sagemem_index_build(map, &desc);                  // make it, and
 *         if (index != NULL) sagemem_index_save(index, "genes.fa.index");              // keep it for the next time
 *
 *     memory    none for records of one size; 0.4 bytes a record for lines of one length; 1.5 to 3 bytes for FASTA and lines of
 *               any length (tests/public_index.c prints it). 64 records share a line through their starts
 *     time      to build: that of memchr over the file; get: constant, two loads and a shift; load: all records are checked
 *     the file  version, byte order, checksums, size and time of change of what it is of: whatever does not fit is refused. One
 *               made by hand may name wrong records, but none outside of the map
 *     threads   any, at the same time: nothing changes once it is built
 *     caught    a map that was closed, refreshed or replaced; a map that is closed while slices of its records are held
 *     Weak: a file that is changed in place within one tick of its file system's clock, at its old size, looks the same. An
 *     index is of the file's bytes, not of what is written to a _PRIVATE map.
 *
 * REPORTS
 *
 *     Where is memory? One line does it, wherever the question comes up, in whichever thread:
 *
 *         sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, "-");              // or "memory.html", SAGEMEM_FORMAT_HTML
 *
 *     TEXT        for people: what is ours, held but unused, mapped, the rest of the process, beside what is resident; tags by
 *                 group, with what each had when the total was at its peak; heaps; scopes, the worst one marked; open files
 *     BRIEF       a line for a log: high-water mark, blocks, what made the peak
 *     HTML        TEXT with a tree map of the peak and the scopes over time; one file, without scripts, nothing is loaded
 *     JSON, CSV   for programs. CSV has a row for each heap and tag, of what is the heap's own: they add up
 *     PROMETHEUS  for node_exporter's textfile collector: the file is replaced whole. Heaps of one name are one series
 *     FOLDED      what is in use, as stacks for flame graphs
 *
 *     All numbers are gathered first, then written: every form of one sagemem_snapshot adds up to the same, and a sink may call
 *     the library. sagemem_snapshot_diff tells what two moments differ in: what forest 17 left behind, what a module costs, what
 *     grows. sagemem_leaks lists what is left; sagemem_report_at_exit does so when the program ends, and makes that a failure.
 *     Tags and scopes are known for every block; file and line where SAGEMEM_SITES is defined and the heap has
 *     SAGEMEM_HEAP_SITES or _CHECKED (sagemem_heap_default_configure: also the default ones), and no other thread is using it.
 *     Of the scopes that have ended a heap remembers 64: when there are more, the worst of each run of so many, so the worst of
 *     all is exact, the next ones need not be. "rest of the process" is what is resident beyond what is held and mapped: since
 *     these need not all be resident, it is the least that it can be.
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
 *     Peaks of scopes and of SAGEMEM_HEAP_CHECKED, _SITES and _SYSTEM heaps are exact. Those of ordinary heaps, of heaps
 *     with children and of the process are looked at when 1/32 of what is held and 1/8 more, but not above 256 KiB, has been
 *     allocated or has gone, when a scope ends or the heap around it grows, and whenever statistics are read. So an ordinary
 *     heap's peak is at most the true one and short of it by at most that, plus one page (16 to 64 KiB) for each
 *     (tag, size class) with slab pages, plus one chunk. A parent's or the process's is the sum of what its heaps last
 *     showed: it may be off by the sum of their bounds.
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
 *     parent's. No function may be called from a signal handler: let it set a flag, and report where the work comes by.
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
 *     read or written after its scope    -                    no                    no, or SIGSEGV   no
 *       or heap ended
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
 *     gcc warns that static functions are never defined: SAGEMEM_STATIC with layers left out; -Wno-unused-function there.
 *     A crash in a source's map_fn, or a deadlock: it is called with a lock held and must not call sagemem.
 *     free() or realloc() of the C library got a block of sagemem_alloc: it may say nothing and damage its own lists; only
 *       sagemem_free and sagemem_realloc know these blocks. Valgrind and AddressSanitizer name it at once.
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
 *     A section calls only sections above it; >>report reads counters and is called by nobody, nor is what adapts other
 *     libraries (>>with-hdf5: declared only where it is on, since it needs their headers). A new operating system
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
#ifndef SAGEMEM_WITH_HDF5
#define SAGEMEM_WITH_HDF5 0
#endif
#if SAGEMEM_WITH_HDF5 != 0 && SAGEMEM_WITH_HDF5 != 1
#error "sagemem: SAGEMEM_WITH_HDF5 must be 0 or 1"
#endif
#if SAGEMEM_WITH_IO == 1 && SAGEMEM_WITH_MAP == 0
#error "sagemem: SAGEMEM_WITH_IO needs SAGEMEM_WITH_MAP 1 (readers map files)"
#endif
#if SAGEMEM_WITH_HDF5 == 1 && SAGEMEM_WITH_IO == 0
#error "sagemem: SAGEMEM_WITH_HDF5 needs SAGEMEM_WITH_IO 1 (datasets are written by writers and read by readers)"
#undef SAGEMEM_WITH_HDF5
#define SAGEMEM_WITH_HDF5 0
#endif
#if SAGEMEM_WITH_HDF5 == 1
#include <hdf5.h> /* pkg-config --cflags hdf5, or compile with h5cc */
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
#define SAGEMEM_INLINE static inline __attribute__((__unused__, __always_inline__)) /* also on paths that look rare */
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
 * that are not SAGEMEM_HEAP_SHARED, and not past a function that the library called. NULL restores the default: the message on
 * stderr, then abort(). */
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
    void (*purge_fn)(void *ctx, void *pages, size_t size); /* the contents may go, the range stays; may be NULL. By sagemem_trim */
    size_t page_size;                                      /* sizes are rounded up to this; a power of two [the system's] */
    void *ctx;
} sagemem_source;

typedef enum sagemem_numa_policy {
    SAGEMEM_NUMA_PREFERRED, /* that node first, others when it is full */
    SAGEMEM_NUMA_BIND,      /* that node or nothing */
    SAGEMEM_NUMA_INTERLEAVE /* page by page over all nodes; the node number is ignored */
} sagemem_numa_policy;

/* Sources by value hold nothing and are not destroyed. Where huge pages or NUMA are not to be had, the pages
 * are ordinary ones, and the system is asked to make huge ones of them as they are used; `huge_page_bytes` in the statistics says
 * what was really obtained: of such pages it is looked up in /proc/self/smaps, so statistics of such a heap take a walk there. */
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
    uint32_t purge_delay_ms;      /* unused pages go back to the system after this [1000], when a page is next taken or freed
                                     (mappings above 16 MiB, and those of a source, at once, or after the scope);
                                     SAGEMEM_PURGE_NEVER: by sagemem_trim alone; SAGEMEM_PURGE_NOW: with the free, but not
                                     inside sagemem_scope_end: then with the next page */
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
 * blocks; pages are kept, by the heap or by the process: none goes to the system here, whatever the heap's purge_delay_ms. */
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

/* A function that gives memory back when a limit is met: called in the thread that met it, with no lock held (but a
 * SAGEMEM_HEAP_SHARED heap itself, where one of its objects needs the memory), lowest priority number first, until it is
 * enough; it returns the bytes given back (0: none, the next is asked) and may free and allocate. It must not change the
 * writer, reader, map or array that is growing just then. `name` is copied. E_FULL: 64 are registered. Threads: any. */
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
 * heaps; other heaps do it at their next slow path. Returns the bytes given back. Threads: any. Blocks stay where they are: a
 * page goes when none is left in it. Of freed blocks above two pages of the system (8 KiB) the inside goes at once, but is held
 * further, for the heap. */
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
    size_t alignment;                /* of each object: a power of two up to 4096; objects lie that close together [16] */
    size_t initial_count, max_count; /* objects: room in a first block that is taken at once [one page, with the first object];
                                        most at once [no limit] */
    double growth;                   /* each block has room for so many times the objects of the one before, up to 1 MiB [2.0];
                                        fewer, but at least a page, where a limit is near */
    sagemem_status (*init_fn)(void *ctx, void *object); /* makes what the object owns; not OK: the allocation fails with that
                                                           status and nothing is taken. The object's bytes are undefined before */
    void (*cleanup_fn)(void *ctx, void *object);        /* frees what the object owns: at free, reset, destroy, scope end */
    sagemem_status (*copy_fn)(void *ctx, void *to, const void *from); /* makes `to` a copy that owns its own parts, instead of
                                                                         init_fn; not OK: as for init_fn [bytes are copied] */
    void *ctx;
    bool bypass; /* each object is a block of the heap, same results: for comparing, and for tools that look at blocks */
} sagemem_pool_desc;

/* A pool; NULL on failure (E_ARGUMENT, E_NOMEM, E_LIMIT). The hooks may use the heap, but not this pool: E_BUSY to the fault
 * handler. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_pool *sagemem_pool_create(const sagemem_pool_desc *desc);

/* The desc with every default resolved; `name` is valid while the pool lives. */
SAGEMEM_API sagemem_status sagemem_pool_get_desc(const sagemem_pool *pool, sagemem_pool_desc *out);

/* An object, initialised by init_fn; else undefined, or zero in a SAGEMEM_HEAP_ZERO heap. It lies in one of up to 16 places
 * freed lately, else at the lowest free address of the block in use. NULL: E_FULL max_count objects are live, E_NOMEM, E_LIMIT,
 * or init_fn's status, and nothing has changed; or, from the fault handler, E_CORRUPT: the place was written to after it was
 * freed, and is not used again. Cost: a few nanoseconds; a block from the heap now and then. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_pool_alloc(sagemem_pool *pool);

/* A copy of an object of this pool, of another one, or of none, by copy_fn. NULL as for sagemem_pool_alloc; or, from the fault
 * handler, E_STALE, E_FOREIGN: `from` lies in this pool, but is no object in use. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_pool_copy(sagemem_pool *pool, const void *from);

/* Cleans an object up and gives its place back; NULL is fine. To the fault handler: E_FOREIGN not an object of this pool,
 * E_STALE freed already, E_CORRUPT written past its end (seen in a SAGEMEM_HEAP_CHECKED heap). */
SAGEMEM_API void sagemem_pool_free(sagemem_pool *pool, void *object);

/* Calls visit for every live object in the order of blocks and addresses (bypass: in that of allocation), until it returns
 * false. visit may free the object it is given, and no other; what it allocates may or may not be visited. It must not
 * reset or destroy the pool (E_BUSY to the fault handler), nor jump away. */
SAGEMEM_API void sagemem_pool_each(sagemem_pool *pool, bool (*visit)(void *ctx, void *object), void *ctx);

/* Frees every object (cleanup_fn runs for each); the blocks stay for the next ones. Cost: blocks; objects, with a cleanup_fn. */
SAGEMEM_API void sagemem_pool_reset(sagemem_pool *pool);

/* Gives blocks without objects back to the heap; bytes given back. In a hook or a visit: 0, E_BUSY (no fault: a reclaimer
 * may be called at any time). */
SAGEMEM_API uint64_t sagemem_pool_trim(sagemem_pool *pool);

/* Frees every object, all blocks and the pool; NULL is fine. */
SAGEMEM_API void sagemem_pool_destroy(sagemem_pool *pool);

typedef struct sagemem_pool_stats {
    uint64_t objects, peak_objects; /* live now; most at once */
    uint64_t capacity;              /* objects that the blocks have room for */
    uint64_t blocks, held;          /* taken from the heap; their bytes, as the tag counts them */
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
    uint64_t max_idle_bytes; /* kept for later, released longest ago go first; larger ones are freed at once [no limit] */
    size_t max_idle_count;   /* [1024] */
    double slack;            /* a buffer may be up to this many times the size asked for [2.0]; at least 1. What the heap
                                may round a size up by, a sixteenth and 64 bytes, never counts */
    size_t alignment;        /* of every buffer: a power of two up to 4096 [16] */
} sagemem_recycler_desc;
typedef struct sagemem_recycler_stats {
    uint64_t hits, misses;             /* acquired from what was kept; from the heap */
    uint64_t idle_bytes, idle_buffers; /* kept for later now */
    uint64_t out_bytes, out_buffers;   /* acquired and not yet released */
} sagemem_recycler_stats;
/* A recycler; NULL desc: all defaults. NULL on failure: E_ARGUMENT (tag, slack, alignment), E_NOMEM, E_LIMIT. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_recycler *sagemem_recycler_create(const sagemem_recycler_desc *desc);
/* The desc with every default resolved (max_idle_bytes 0: no limit); `name` is valid while the recycler lives. */
SAGEMEM_API sagemem_status sagemem_recycler_get_desc(const sagemem_recycler *recycler, sagemem_recycler_desc *out);
/* A buffer of at least `size` bytes (sagemem_size says how many): the smallest idle one that fits, of several the one released
 * last, else a new block. Contents undefined, or zero in a SAGEMEM_HEAP_ZERO heap. NULL: E_NOMEM, E_LIMIT (idle buffers have
 * been freed), E_ARGUMENT. Cost: logarithmic in the number of idle buffers. */
SAGEMEM_API SAGEMEM_NODISCARD void *sagemem_recycler_acquire(sagemem_recycler *recycler, size_t size);
/* Gives a buffer back to the recycler that it came from; NULL is fine. To the fault handler: E_FOREIGN not one of its
 * buffers, E_STALE released already, or freed by another call. */
SAGEMEM_API void sagemem_recycler_release(sagemem_recycler *recycler, void *buffer);
/* Frees idle buffers; bytes given back to the heap. */
SAGEMEM_API uint64_t sagemem_recycler_trim(sagemem_recycler *recycler);
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
    size_t chunk_bytes; /* 1 KiB ... 1 GiB; what is larger than a quarter of it and does not fit gets a chunk of its own; rounded
                           up to a multiple of 16 [64 KiB; when loaded: as saved] */
    uint64_t max_bytes; /* of all chunks [no limit] */
} sagemem_arena_desc;

/* Where the arena was: for sagemem_arena_rewind. */
typedef struct sagemem_arena_mark {
    uint64_t position, serial;
} sagemem_arena_mark;

/* What was put: zero in all fields is none. Good after growth, and in an arena loaded from what this one saved. */
typedef struct sagemem_arena_ref {
    uint32_t chunk, offset; /* chunks count from 1; after a rewind their numbers serve again */
    uint64_t length;        /* bytes */
} sagemem_arena_ref;

typedef struct sagemem_arena_stats {
    uint64_t used, peak_used; /* bytes given out, padding included; most at once */
    uint64_t held, chunks;    /* bytes asked of the heap, and blocks; 16 bytes of each are the arena's */
} sagemem_arena_stats;

/* An arena; NULL on failure (E_ARGUMENT, E_NOMEM, E_LIMIT). NULL desc: all defaults. No chunk until it is used. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_arena *sagemem_arena_create(const sagemem_arena_desc *desc);
/* The desc with every default resolved; `name` is valid while the arena lives. */
SAGEMEM_API sagemem_status sagemem_arena_get_desc(const sagemem_arena *arena, sagemem_arena_desc *out);
SAGEMEM_API sagemem_status sagemem_arena_get_stats(const sagemem_arena *arena, sagemem_arena_stats *out);

/* Bytes at a multiple of 16 (of alignment, a power of two up to 4096; 1 packs), never moved; undefined, or zero in a
 * SAGEMEM_HEAP_ZERO heap. Size 0 is a place of its own. NULL: E_ARGUMENT, E_NOMEM, E_LIMIT, E_FULL for max_bytes; nothing
 * has changed, but that spare chunks may have gone to the heap. Cost: a few nanoseconds; a block from the heap now and then. */
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_arena_alloc(sagemem_arena *arena, size_t size);
SAGEMEM_API SAGEMEM_MALLOC_SIZE1(2) void *sagemem_arena_alloc_aligned(sagemem_arena *arena, size_t size, size_t alignment);

/* Copies data (may be NULL when size is 0) into the arena, at any address. A zeroed ref: as NULL above. */
SAGEMEM_API sagemem_arena_ref sagemem_arena_put(sagemem_arena *arena, const void *data, size_t size);
/* What was put, until it is rewound or reset; *size (may be NULL) is ref.length. NULL, *size 0: E_ARGUMENT, the ref points
 * outside of what is used. Threads: any number at once while nobody changes the arena. */
SAGEMEM_API const void *sagemem_arena_get(const sagemem_arena *arena, sagemem_arena_ref ref, size_t *size);

/* Everything allocated after the mark goes; the chunks stay for what comes next, those of one thing go to the heap. The mark
 * stays good. To the fault handler, and nothing has changed: E_STALE, a mark that was itself rewound past (one is missed
 * only when 32 later rewinds, each to a higher place and past other marks, came after that); E_FOREIGN, another arena's mark.
 * A failed get_mark (the fault handler was called) returns zeroes, which no arena takes. Cost: chunks that become spare. */
SAGEMEM_API sagemem_arena_mark sagemem_arena_get_mark(sagemem_arena *arena);
SAGEMEM_API void sagemem_arena_rewind(sagemem_arena *arena, sagemem_arena_mark mark);
SAGEMEM_API void sagemem_arena_reset(sagemem_arena *arena);    /* everything goes, as by a rewind to the start */
SAGEMEM_API uint64_t sagemem_arena_trim(sagemem_arena *arena); /* spare chunks go to the heap; bytes given back */
SAGEMEM_API void sagemem_arena_destroy(sagemem_arena *arena);  /* NULL is fine */

/* Writes the arena to a sink, positions 0 and up without gaps: a header with version, byte order and checksum, then the used
 * part of each chunk. The same puts give the same image. What the sink returns is returned, and ends it; close_fn is not
 * called; the sink must not change the arena. Addresses stored inside the data are not translated: store refs. */
SAGEMEM_API sagemem_status sagemem_arena_save(const sagemem_arena *arena, const sagemem_sink *to);
/* An arena with what was saved, refs included, aligned as it was up to 64; data (a mapped file, say) is copied, may be
 * anything, and is not needed afterwards. NULL: E_CORRUPT (not such an image, cut short, longer, damaged), E_UNSUPPORTED (a
 * newer version, other byte order), E_ARGUMENT, E_NOMEM, E_LIMIT, E_FULL for max_bytes. Cost: a copy and a checksum. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_arena *sagemem_arena_load(const sagemem_arena_desc *desc, const void *data, size_t size);

/* ==========================================================================
 * >>array  Geometric growth for any code, typed arrays, arrays that never move, columns that grow together.
 * ========================================================================== */

/* Makes room for at least min_capacity elements in *data, a block of sagemem_alloc or NULL, by a factor of growth (more than 1;
 * 0: 1.5), and sets *capacity, counted in elements. *data NULL: default heap, untagged; else the block's own heap, scope and tag.
 * Returns OK and changes nothing when the capacity is enough already; a block that has more room than *capacity says is taken
 * at its size, never shrunk. Blocks of malloc are none: start from NULL or sagemem_alloc. On failure (E_ARGUMENT, E_NOMEM,
 * E_LIMIT) nothing is changed. Threads: the block's owner. Cost: O(log n) of these for n elements pushed one by one. */
SAGEMEM_API sagemem_status sagemem_array_grow(void **data, size_t element_size, size_t *capacity, size_t min_capacity,
                                              double growth);

typedef struct sagemem_array_desc {
    sagemem_heap *heap;
    sagemem_tag tag;
    size_t element_size;     /* bytes; must be given (SAGEMEM_ARRAY_OF gives it) */
    size_t initial_capacity; /* elements [as many as fit 64 bytes, at least 1] */
    double growth;           /* more than 1 [1.5, and 2 up to 64 KiB, where time counts for more than bytes] */
    size_t stable_max;       /* > 0: addresses for so many elements are set aside and pages committed as they fill: elements never
                                move, nothing is ever copied, and old and new are never needed at once */
} sagemem_array_desc;

/* Owned by whoever declares it; its elements are one block of the heap, made by init and gone with the scope or heap that was
 * current then. Zeroed, it is no array yet: E_ARGUMENT. A copy of the struct is the same array: use one only. */
typedef struct sagemem_array {
    void *data;
    size_t count, capacity; /* capacity: elements that fit without a call; under tools that watch memory just count */
    size_t element_size;
    double growth;     /* 0: the default */
    size_t stable_max; /* 0: the block moves when it grows */
} sagemem_array;

/* On failure (E_ARGUMENT, E_NOMEM, also when no addresses are to be had, E_LIMIT) *array is zeroed. Heaps with a source of
 * their own, of SAGEMEM_HEAP_SYSTEM or _CHECKED take all of stable_max at once. */
SAGEMEM_API sagemem_status sagemem_array_init(sagemem_array *array, const sagemem_array_desc *desc);
/* initial_capacity is the present one. */
SAGEMEM_API sagemem_status sagemem_array_get_desc(const sagemem_array *array, sagemem_array_desc *out);
/* Appends a copy of one element (which may lie in the array). Failures of this and the next three: E_ARGUMENT (a size that
 * overflows), E_FULL (stable_max), E_NOMEM, E_LIMIT; the array is as it was. */
SAGEMEM_API sagemem_status sagemem_array_push(sagemem_array *array, const void *element);
/* Appends count elements, undefined (zero in a SAGEMEM_HEAP_ZERO heap), and returns the first; NULL: failed. */
SAGEMEM_API void *sagemem_array_add(sagemem_array *array, size_t count);
SAGEMEM_API sagemem_status sagemem_array_resize(sagemem_array *array, size_t count); /* new elements as by _add */
SAGEMEM_API sagemem_status sagemem_array_reserve(sagemem_array *array, size_t capacity);
SAGEMEM_API void *sagemem_array_at(const sagemem_array *array, size_t index); /* NULL past the end: E_ARGUMENT */
/* Removes an element; the last one takes its place. E_ARGUMENT in sagemem_last_error() past the end: nothing happens. */
SAGEMEM_API void sagemem_array_remove_swap(sagemem_array *array, size_t index);
/* Gives room behind the last element back. Never fails for lack of memory: then the array stays as it is. */
SAGEMEM_API sagemem_status sagemem_array_shrink(sagemem_array *array);
SAGEMEM_API void sagemem_array_deinit(sagemem_array *array); /* frees the elements and zeroes *array; a zeroed one is fine */
SAGEMEM_API size_t sagemem_array_count(const sagemem_array *array);
SAGEMEM_API size_t sagemem_array_capacity(const sagemem_array *array);
SAGEMEM_API void *sagemem_array_data(const sagemem_array *array);

/* *to = *from, field by field: compilers keep what is copied so in registers. For the calls that SAGEMEM_ARRAY_OF makes. */
SAGEMEM_INLINE void sagemem_array_assign(sagemem_array *to, const sagemem_array *from) {
    to->data = from->data;
    to->count = from->count;
    to->capacity = from->capacity;
    to->element_size = from->element_size;
    to->growth = from->growth;
    to->stable_max = from->stable_max;
}

/* SAGEMEM_ARRAY_OF(galaxy_array, struct GALAXY); at file scope, after the complete, trivially copyable type: the type
 * galaxy_array { sagemem_array base; } and galaxy_array_init(a, desc) (desc may be NULL), _push(a, const struct GALAXY *),
 * _add(a, n), _at(a, i), _data(a), _count, _capacity, _resize, _reserve, _remove_swap, _shrink, _deinit. C and C++.
 * The library is called with a copy of base, which is then taken back: so the address of an array that is a local variable
 * goes nowhere, and the compiler keeps it in registers; a push is a comparison and a store. */
#define SAGEMEM_ARRAY_OF(array_name, type)                                                                                         \
    typedef struct array_name {                                                                                                    \
        sagemem_array base;                                                                                                        \
    } array_name;                                                                                                                  \
    SAGEMEM_INLINE sagemem_status array_name##_init(array_name *array, const sagemem_array_desc *desc) {                           \
        static const sagemem_array_desc defaults = {0, 0, 0, 0, 0, 0};                                                             \
        sagemem_array_desc typed = desc ? *desc : defaults;                                                                        \
        sagemem_array base;                                                                                                        \
        typed.element_size = sizeof(type);                                                                                         \
        if (!array) return sagemem_array_init(0, &typed);                                                                          \
        sagemem_status result = sagemem_array_init(&base, &typed);                                                                 \
        sagemem_array_assign(&array->base, &base);                                                                                 \
        return result;                                                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE sagemem_status array_name##_push(array_name *array, const type *element) {                                      \
        if (__builtin_expect(array->base.count == array->base.capacity, 0)) {                                                      \
            sagemem_array base;                                                                                                    \
            sagemem_array_assign(&base, &array->base);                                                                             \
            const type copy = *element;                                                                                            \
            sagemem_status result = sagemem_array_push(&base, &copy);                                                              \
            sagemem_array_assign(&array->base, &base);                                                                             \
            return result;                                                                                                         \
        }                                                                                                                          \
        ((type *)array->base.data)[array->base.count++] = *element;                                                                \
        return SAGEMEM_OK;                                                                                                         \
    }                                                                                                                              \
    SAGEMEM_INLINE type *array_name##_add(array_name *array, size_t count) {                                                       \
        if (!array) return (type *)sagemem_array_add(0, count);                                                                    \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        type *result = (type *)sagemem_array_add(&base, count);                                                                    \
        sagemem_array_assign(&array->base, &base);                                                                                 \
        return result;                                                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE type *array_name##_at(const array_name *array, size_t index) {                                                  \
        if (__builtin_expect(index < array->base.count, 1)) return (type *)array->base.data + index;                               \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        return (type *)sagemem_array_at(&base, index);                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE type *array_name##_data(const array_name *array) { return (type *)array->base.data; }                           \
    SAGEMEM_INLINE size_t array_name##_count(const array_name *array) { return array->base.count; }                                \
    SAGEMEM_INLINE size_t array_name##_capacity(const array_name *array) {                                                         \
        if (!array) return sagemem_array_capacity(0);                                                                              \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        return sagemem_array_capacity(&base);                                                                                      \
    }                                                                                                                              \
    SAGEMEM_INLINE sagemem_status array_name##_resize(array_name *array, size_t count) {                                           \
        if (!array) return sagemem_array_resize(0, count);                                                                         \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        sagemem_status result = sagemem_array_resize(&base, count);                                                                \
        sagemem_array_assign(&array->base, &base);                                                                                 \
        return result;                                                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE sagemem_status array_name##_reserve(array_name *array, size_t capacity) {                                       \
        if (!array) return sagemem_array_reserve(0, capacity);                                                                     \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        sagemem_status result = sagemem_array_reserve(&base, capacity);                                                            \
        sagemem_array_assign(&array->base, &base);                                                                                 \
        return result;                                                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE void array_name##_remove_swap(array_name *array, size_t index) {                                                \
        if (!array) {                                                                                                              \
            sagemem_array_remove_swap(0, index);                                                                                   \
            return;                                                                                                                \
        }                                                                                                                          \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        sagemem_array_remove_swap(&base, index);                                                                                   \
        sagemem_array_assign(&array->base, &base);                                                                                 \
    }                                                                                                                              \
    SAGEMEM_INLINE sagemem_status array_name##_shrink(array_name *array) {                                                         \
        if (!array) return sagemem_array_shrink(0);                                                                                \
        sagemem_array base;                                                                                                        \
        sagemem_array_assign(&base, &array->base);                                                                                 \
        sagemem_status result = sagemem_array_shrink(&base);                                                                       \
        sagemem_array_assign(&array->base, &base);                                                                                 \
        return result;                                                                                                             \
    }                                                                                                                              \
    SAGEMEM_INLINE void array_name##_deinit(array_name *array) {                                                                   \
        static const sagemem_array none = {0, 0, 0, 0, 0, 0};                                                                      \
        sagemem_array base = none;                                                                                                 \
        if (!array) return;                                                                                                        \
        base.data = array->base.data;                                                                                              \
        sagemem_array_deinit(&base);                                                                                               \
        array->base = none;                                                                                                        \
    }                                                                                                                              \
    typedef char array_name##_is_aligned_to_16[__alignof__(type) <= 16 ? 1 : -1];                                                  \
    typedef int array_name##_needs_a_semicolon

/* A structure of arrays: named columns with one count, each aligned to 64 bytes, all in one block. */
typedef struct sagemem_columns sagemem_columns;
typedef struct sagemem_column {
    const char *name; /* may be NULL or "": then not to be found; else unlike all others; copied */
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
/* NULL: E_ARGUMENT (no column, no element_size, a name twice), E_NOMEM, E_LIMIT. Threads: as the heap. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_columns *sagemem_columns_create(const sagemem_columns_desc *desc);
/* initial_capacity is the present one; name, columns and their names are valid while the columns live. */
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
SAGEMEM_API sagemem_status sagemem_columns_shrink(sagemem_columns *columns); /* as sagemem_array_shrink */
SAGEMEM_API void sagemem_columns_destroy(sagemem_columns *columns);          /* NULL is fine */

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

/* A copy of the bytes (NULL when size is 0) in a block of the heap, freed with the last slice of it. Zeroed: E_NOMEM, E_LIMIT,
 * E_ARGUMENT; nothing is left. The block belongs to the open scope like any other: slices of it must be released before
 * that ends. Threads: the heap's owner. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_copy(sagemem_heap *heap, const void *data, size_t size, sagemem_tag tag);
/* Takes a block of sagemem_alloc over without copying; size bytes of it are seen. Zeroed: it stays the caller's (E_ARGUMENT:
 * NULL, or size above sagemem_size; E_NOMEM, E_LIMIT; no live block: the fault handler). Threads: any. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_take(void *block, size_t size);
/* A view of foreign memory: a mapped file, a library's buffer. release_fn (may be NULL) is called with the last release, in the
 * thread that does it, with no lock held: it may make and release slices. Zeroed: E_NOMEM, E_LIMIT, E_ARGUMENT, and
 * release_fn is not called. Threads: any. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_slice_wrap(const void *data, size_t size,
                                                               void (*release_fn)(void *ctx, const void *data), void *ctx);
/* Threads of these: any. One more for the same bytes; one less. To the fault handler: E_STALE, the last one was released
 * already, or the block went with its scope or heap (the count goes down all the same); E_FOREIGN, no call made this
 * slice. Zeroed: also E_FULL, 2^32 - 1 slices share the bytes. */
SAGEMEM_API sagemem_slice sagemem_slice_retain(sagemem_slice slice);
SAGEMEM_API void sagemem_slice_release(sagemem_slice slice);
/* The bytes start ... end of a slice, end not included, as a slice of its own (to be released). E_ARGUMENT: not
 * start <= end <= size; E_STALE, E_FOREIGN, E_FULL as for retain; *out is zeroed. Threads: any. */
SAGEMEM_API sagemem_status sagemem_slice_sub(sagemem_slice slice, size_t start, size_t end, sagemem_slice *out);
/* size bytes from `at` on: where they lie, or NULL with E_ARGUMENT when they reach past the end, or with E_STALE or E_FOREIGN
 * as for retain. Nothing is counted. Threads: any. */
SAGEMEM_API const void *sagemem_slice_at(sagemem_slice slice, size_t at, size_t size);
/* Slices that share the bytes now; 0: none, or ended. Threads: any. */
SAGEMEM_API uint64_t sagemem_slice_count(sagemem_slice slice);

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

/* Zero in every field is its default, in brackets; one of path and fd_plus_one must be given. */
typedef struct sagemem_map_desc {
    const char *path;        /* a regular file that is there; copied */
    int fd_plus_one;         /* or a descriptor + 1, which is duplicated: the caller's stays the caller's. For _WRITE one that
                                  reads and writes, not O_APPEND. Its position is not looked at */
    uint64_t offset, length; /* any bytes, not only page multiples; what is past the end is cut off [0, to the end] */
    sagemem_map_mode mode;
    sagemem_map_access access;
    uint64_t threshold; /* maps of fewer bytes are read, not mapped [0: always map] */
    uint64_t window;    /* _READ: only so many bytes are mapped or kept at a time, and views slide over the file [0: all of it] */
    bool no_mapping;    /* read, never map */
    bool no_fallback;   /* where mapping fails, fail; do not read */
    bool populate;      /* read all of it (of a window: all of that) now, not when it is touched */
    bool huge_pages;    /* ask for huge pages (file systems that have them) */
    int numa_node_plus_one; /* a wish, see MAPS; 0 ... 1023, and 1 more */
    sagemem_heap *heap;     /* accounts for the bytes: mapped ones as `mapped`, read ones as a block of its tag */
    sagemem_tag tag;
} sagemem_map_desc;

/* NULL: E_ARGUMENT; E_NOT_FOUND no such file; E_IO with os_error (a directory, no permission, ...); E_NOMEM, E_LIMIT;
 * E_UNSUPPORTED a pipe or device (use a reader), or mapping failed and no_fallback; E_TOO_BIG more than half of the address
 * space (use a window). An empty file is a map of size 0. The map belongs to the open scope; a _WRITE map that ends with it is
 * flushed, and reported as an error in the log if that failed. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_map *sagemem_map_open(const sagemem_map_desc *desc);
/* The desc as it was resolved; length is what was found, path a copy that lives as long as the map. */
SAGEMEM_API sagemem_status sagemem_map_get_desc(const sagemem_map *map, sagemem_map_desc *out);
/* Flushes a _WRITE map and closes it; all views end. E_IO: the flush failed, the map is still open and can be closed again. */
SAGEMEM_API sagemem_status sagemem_map_close(sagemem_map *map); /* NULL is fine */

/* The first byte; NULL for a map of size 0 or with a window (use views). Never NULL otherwise. Threads: any, as long as nobody
 * closes, refreshes or writes: so too get_desc, size, is_mapped, read, prefetch, data_writable, and view without a window. */
SAGEMEM_API const void *sagemem_map_data(const sagemem_map *map);
SAGEMEM_API uint64_t sagemem_map_size(const sagemem_map *map);
SAGEMEM_API bool sagemem_map_is_mapped(const sagemem_map *map); /* false: the bytes were read, or there are none */

/* size bytes from offset (in the map) on; mapped or read, the same bytes. With a window: until the next call of this, whether
 * it fails or not. NULL: E_ARGUMENT past the end; with a window E_TOO_BIG larger than it, E_IO, E_NOMEM, E_LIMIT, E_UNSUPPORTED.
 * Reading a mapped view of a file that someone else cuts short is a SIGBUS: where that can happen use sagemem_map_read. Size 0
 * is never NULL inside the map. */
SAGEMEM_API const void *sagemem_map_view(sagemem_map *map, uint64_t offset, size_t size);
/* The same as data, to write to; NULL: E_ARGUMENT, the map is _READ or has a window. */
SAGEMEM_API void *sagemem_map_data_writable(sagemem_map *map);
/* Brings what was written to a _WRITE map to the file (and to the disk). E_IO, nothing is lost: can be repeated. E_UNSUPPORTED:
 * bytes that were read before a fork are the parent's to write. _PRIVATE: nothing to do. */
SAGEMEM_API sagemem_status sagemem_map_flush(sagemem_map *map);
/* Copies bytes out, guarded: a file that was cut short is E_IO with the offset, not a signal. E_ARGUMENT: past the end.
 * After a failure `to` is undefined. Cost: a system call. */
SAGEMEM_API sagemem_status sagemem_map_read(sagemem_map *map, uint64_t offset, void *to, size_t size);
/* Asks the system for the bytes ahead and returns at once; a wish, cut off at the end of the map. */
SAGEMEM_API sagemem_status sagemem_map_prefetch(sagemem_map *map, uint64_t offset, uint64_t size);
/* Looks at the file again (the one that was opened, whatever has its name now), which may have grown or shrunk; a length given
 * in the desc still bounds it. All views end. On failure the map is as it was: E_IO, E_NOMEM, E_LIMIT, E_UNSUPPORTED, E_TOO_BIG
 * as for open and flush. What was written to a _PRIVATE map is gone; to a _WRITE map, flushed. */
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
    uint64_t offset;          /* in the file, of the first byte written; what was there before and behind stays */
    size_t initial_bytes;     /* of the buffer [1 MiB, less where the budget of all writers is short] */
    size_t min_bytes;         /* [64 KiB] */
    size_t max_bytes;         /* [8 MiB] */
    bool adaptive;            /* the buffer grows while it fills often, and shrinks when flushes find little in it */
    bool atomic;       /* write to a new file beside, rename at close: the old file or the new one, never a part. Needs path */
    bool background;   /* a thread of the writer writes one buffer while the caller fills the next. It is the one to call the
                        sink then, or the caller is, never both at once; the sink must not use the writer's heap */
    sagemem_sync sync; /* NONE for a sink */
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_writer_desc;

/* NULL: E_ARGUMENT, also a descriptor that is not open for writing; E_NOT_FOUND no such directory; E_IO with os_error;
 * E_UNSUPPORTED atomic, and the path is no regular file; E_NOMEM, E_LIMIT no buffer of min_bytes, or nothing at all. A file
 * that was there is then as it was. Where memory is short the buffer is smaller, and without a thread the caller writes: see
 * sagemem_writer_get_desc. The writer belongs to the open scope: one that ends with it is abandoned, and reported as an error
 * in the log if anything accepted was not yet written; so is one that is left at exit. In the child of a fork it is the
 * parent's: calls are E_BUSY there, abandon and the end of its scope only free its memory. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_writer *sagemem_writer_open(const sagemem_writer_desc *desc);
SAGEMEM_API sagemem_status sagemem_writer_get_desc(const sagemem_writer *writer, sagemem_writer_desc *out); /* initial_bytes: the
                                                                             buffer's present size; background: there is a thread */

/* Appends bytes. OK: they are accepted, and will be written or reported. A failure accepts nothing and can be repeated: what is
 * pending is tried again first. E_IO: os_error says why (ENOSPC, EDQUOT, EPIPE, ...); on a pipe a leading part may have been
 * accepted: see sagemem_writer_accepted. Cost: a copy; a system call for each buffer. */
SAGEMEM_API sagemem_status sagemem_write(sagemem_writer *writer, const void *data, size_t size);
/* Room for a record of up to size bytes in the buffer, any alignment, zero in a SAGEMEM_HEAP_ZERO heap, valid until the next
 * call on the writer; then sagemem_write_end appends the first `used` of them (0: none). NULL: as for write; E_TOO_BIG, larger
 * than max_bytes; E_NOMEM, E_LIMIT no buffer of that size (also by the budget of all writers): sagemem_write needs none. */
SAGEMEM_API void *sagemem_write_begin(sagemem_writer *writer, size_t size);
SAGEMEM_API void sagemem_write_end(sagemem_writer *writer, size_t used);
/* Writes over bytes accepted earlier, still buffered or not; position is absolute in the file. E_ARGUMENT: not all of them have
 * been accepted. E_UNSUPPORTED: already written, to what is written in order (a pipe, O_APPEND). E_IO: nothing is patched, or
 * a part of what was written already; can be repeated. */
SAGEMEM_API sagemem_status sagemem_writer_patch(sagemem_writer *writer, uint64_t position, const void *data, size_t size);
/* Hands everything accepted to the system. E_IO: what is not written is kept; can be repeated. But a sync that the system
 * tried and failed is final: it may have dropped what it had taken, so from then on every call but abandon fails. */
SAGEMEM_API sagemem_status sagemem_writer_flush(sagemem_writer *writer);
/* Flushes, syncs and renames as the desc asks, calls the sink's close_fn, and frees the writer. Failed: it is still open and
 * nothing was dropped; make room and close again, or abandon. close_fn is not called again: what it said stays the status.
 * E_CLOSED from other calls: the atomic file is in its place, only its directory could not be synced. NULL is E_ARGUMENT. */
SAGEMEM_API sagemem_status sagemem_writer_close(sagemem_writer *writer);
/* Drops what is not written, calls the sink's close_fn, and frees the writer; in atomic mode the old file stays as it was.
 * NULL is fine. */
SAGEMEM_API void sagemem_writer_abandon(sagemem_writer *writer);
/* Bytes accepted; of these, handed to the system: after close or abandon the file holds exactly those. (One that was not
 * emptied at open may also hold what a failed write left behind them.) Counted from the desc's offset. */
SAGEMEM_API uint64_t sagemem_writer_accepted(const sagemem_writer *writer);
SAGEMEM_API uint64_t sagemem_writer_written(const sagemem_writer *writer);
/* Most bytes for the buffers of all writers of the process together [0: no limit]. Held at every moment from then on: those of
 * new writers take what is left, and one that finds nothing left writes through; buffers larger than an equal share (two of a
 * background writer) shrink at the next write or flush. Lowered below what is held: so, and nothing is taken until then.
 * Threads: any. */
SAGEMEM_API void sagemem_writers_set_budget(uint64_t bytes);

typedef struct sagemem_writers_stats {
    uint64_t writers, buffered, buffer_bytes, budget; /* open now; bytes pending; of all buffers; 0: none */
} sagemem_writers_stats;
SAGEMEM_API sagemem_status sagemem_writers_get_stats(sagemem_writers_stats *out); /* Threads: any */

/* Where bytes come from: read_fn puts up to size bytes of position `offset` on into `to` and says how many, 0 at the end. It is
 * called with increasing offsets without gaps, but for sagemem_read_at if `seekable`. A failure has given nothing, whatever *got
 * is: the same offset is asked for again. With read_ahead it is called by the reader's thread, never by two at once, and must not
 * use the reader's heap. close_fn is called once, when the reader ends; not if it could not be opened. */
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
    size_t buffer_bytes;         /* [1 MiB; of a smaller file, what holds it] */
    int buffers;                 /* with read_ahead: this many, one in use, others filled by a thread; 2 to 1024 [3] */
    bool read_ahead;             /* of a mapped file: the system is asked for the next buffers * buffer_bytes */
    uint64_t map_threshold;      /* files of at least this size are mapped [0: all regular files] */
    bool no_mapping;             /* read, never map */
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_reader_desc;

/* NULL: E_ARGUMENT; E_NOT_FOUND no such file; E_IO with os_error (a directory, no permission, ...); E_NOMEM, E_LIMIT. Opening a
 * FIFO waits for its writer. The reader belongs to the open scope. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_reader *sagemem_reader_open(const sagemem_reader_desc *desc);
SAGEMEM_API sagemem_status sagemem_reader_get_desc(const sagemem_reader *reader,
                                                   sagemem_reader_desc *out); /* buffer_bytes: the largest buffer's present size */
/* Copies up to size bytes; *got is less only at the end (OK; 0 when nothing is left) or on failure (E_IO, or what the source
 * returned: the bytes got before it are good, and the call can be repeated). got may be NULL: then less than size is E_EMPTY, and
 * what there was is read. A descriptor that does not block and has nothing: E_IO with EAGAIN; with read_ahead it is waited for.
 * E_BUSY, here and below: the child of a fork, of what was read ahead and is no file. */
SAGEMEM_API sagemem_status sagemem_read(sagemem_reader *reader, void *to, size_t size, size_t *got);
/* The next size bytes where they lie, consumed; valid until the next call on the reader (of a mapped file: until close). Any
 * alignment. NULL: E_EMPTY, fewer are left; E_IO, or what the source returned; E_NOMEM, E_LIMIT when the buffer has to grow for
 * it. After each of them nothing is consumed. */
SAGEMEM_API const void *sagemem_read_view(sagemem_reader *reader, size_t size);
/* Copies size bytes of an absolute position without moving the reader. E_UNSUPPORTED: a pipe or device, or a source that cannot
 * seek. E_EMPTY: past the end. After a failure `to` is undefined. */
SAGEMEM_API sagemem_status sagemem_read_at(sagemem_reader *reader, uint64_t offset, void *to, size_t size);
/* Passes over size bytes: files without reading them. E_EMPTY: fewer are left, all skipped. After another failure those before it
 * are skipped: sagemem_reader_position. */
SAGEMEM_API sagemem_status sagemem_reader_skip(sagemem_reader *reader, uint64_t size);
SAGEMEM_API uint64_t sagemem_reader_position(const sagemem_reader *reader); /* bytes consumed so far */
/* Of a file: what the system says now (0 for those of /proc); mapped: when it was. UINT64_MAX: unknown until the end. */
SAGEMEM_API uint64_t sagemem_reader_size(const sagemem_reader *reader);
SAGEMEM_API bool sagemem_reader_is_mapped(const sagemem_reader *reader);
SAGEMEM_API sagemem_status
sagemem_reader_close(sagemem_reader *reader); /* NULL is fine; what close_fn returned, closed all the same */

/* ==========================================================================
 * >>stream  A reader's input in chunks that end where records do, processed by one thread or many.
 * ========================================================================== */

/* Zero in every field is its default, in brackets. Records are what delimiter_plus_one, record_bytes or boundary_fn says; at most
 * one of them is given [none: records of one byte, chunks end anywhere]. What is left at the end of the input is the last
 * record, complete or not. */
typedef struct sagemem_stream_desc {
    sagemem_reader *reader; /* from where it stands to the end. Until the call returns, other calls on it are E_BUSY */
    size_t chunk_bytes;     /* most bytes of a chunk, but for a single longer record [1 MiB]; at most max_record_bytes */
    size_t chunk_records;   /* most records of a chunk [as many as fit]; a chunk is processed as soon as it has them */
    int buffer_count;       /* with threads: chunks that may wait to be processed; 1 to 1024 [3] */
    int delimiter_plus_one; /* records end with this byte (and 1 more: '\n' + 1); it is part of them */
    size_t record_bytes;    /* records have this size */
    size_t (*boundary_fn)(void *ctx, const void *data, size_t size); /* bytes of complete records at the front of data, which begins
                                                            with a record; 0: none yet, ask with more. What one call returns counts
                                                            as one of chunk_records. Called by the thread that called run */
    sagemem_status (*process_fn)(void *ctx, const void *data, size_t size, uint64_t offset); /* must be given. Anything but OK
                                                            stops the stream and is returned. offset: position in the input */
    void *ctx;
    int threads;             /* that call process_fn, the calling one among them; 1 to 1024 [1] */
    bool unordered;          /* they call it at the same time [one after the other, in the order of the input] */
    size_t max_record_bytes; /* of a record longer than chunk_bytes, for which the buffer grows [64 MiB] */
} sagemem_stream_desc;

/* Processes all that the reader has left; data is valid until process_fn returns, which may use the library, but not the reader.
 * OK: the end was reached. Chunks depend on the bytes and the desc alone (with chunk_records and a boundary_fn, also on its
 * answers), not on where the bytes come from or on threads. They are parts of a mapped file; else of the reader's buffer, which
 * grows to chunk_bytes, or to a longer record; with threads, of at most buffer_count + threads copies of that size, in blocks of
 * the reader's heap and tag. When these are full, nothing is read until one is free.
 * Threads that call process_fn have default heaps of their own (NULL); where one cannot be started the others do its work. In
 * order, two do all there is to do: one reads, one processes; but which of them calls process_fn is not said. Without threads it
 * is the calling one.
 * Else the failure at the lowest offset: what process_fn returned; of reading, after what had been read before was processed;
 * E_TOO_BIG with the position, a record longer than max_record_bytes; E_CORRUPT, boundary_fn returned more than size; E_NOMEM,
 * E_LIMIT; E_ARGUMENT. Then no call of process_fn is begun any more, and those under way have returned. The reader stands, and can
 * be read or streamed on: without threads, at the first byte that was not processed; with threads, behind what had been read for
 * chunks: those that waited are dropped. */
SAGEMEM_API sagemem_status sagemem_stream_run(const sagemem_stream_desc *desc);

/* A boundary_fn for FASTA: the size of the first record, from its '>' to the next '>' at the start of a line. */
SAGEMEM_API size_t sagemem_fasta_boundary(void *ctx, const void *data, size_t size);

/* ==========================================================================
 * >>index  Where the records of a map are: found once, saved, and had by number.
 * ========================================================================== */

typedef struct sagemem_index sagemem_index;
typedef enum sagemem_record_kind {
    SAGEMEM_RECORDS_FIXED,     /* of one size */
    SAGEMEM_RECORDS_DELIMITED, /* that end with a byte */
    SAGEMEM_RECORDS_FASTA,     /* from a '>' at the start of a line to the next; what is in front of the first belongs to none */
    SAGEMEM_RECORDS_CALLBACK
} sagemem_record_kind;

/* Zero in every field is its default, in brackets; one of delimiter_plus_one, record_bytes, fasta and boundary_fn must be given.
 * Records lie one behind the other, delimiters are part of them; what is left at the end is the last one, complete or not. */
typedef struct sagemem_index_desc {
    int delimiter_plus_one; /* records end with this byte (and 1 more: '\n' + 1) */
    size_t record_bytes;    /* records have this size */
    bool fasta;
    size_t (*boundary_fn)(void *ctx, const void *data, size_t size); /* the size of the first record in data, which begins with it;
                                                            0: more is needed. It must not use the index's heap */
    void *ctx;
    size_t max_record_bytes; /* for boundary_fn [64 MiB]; with a window, no more than that */
    const char *name;        /* in messages ["index"]; copied */
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_index_desc;

/* Looks through all of the map (one with a window is slid along it) and notes where records begin. Fixed sizes need no memory,
 * others some 2 bytes a record: see INDEXES. NULL: E_ARGUMENT; E_TOO_BIG a record for boundary_fn, with its position; E_CORRUPT,
 * it returned more than size; E_STALE, the file changed meanwhile; E_NOMEM, E_LIMIT; for a window as sagemem_map_view. The index
 * belongs to the open scope. The map must outlive what is asked of its bytes; an index does not end with it. Threads: the
 * owner of the heap; with a window, of the map, too. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_index *sagemem_index_build(sagemem_map *map, const sagemem_index_desc *desc);
/* Writes the index, atomically: path has the old file or the new one. It is good for the file's content as it was when the index
 * was built, told by its size and time of change. Failures as of a sagemem_writer; then path is as it was. Threads: any. */
SAGEMEM_API sagemem_status sagemem_index_save(const sagemem_index *index, const char *path);
/* An index of the map, as it was saved. desc (may be NULL) gives heap, tag and name; if it says what records are, it must be what
 * was saved (of a boundary_fn: that there is one). NULL: E_NOT_FOUND; E_STALE, the map's file has another size or time, the map
 * another part of it, or the index other records; E_CORRUPT, damaged or no index; E_UNSUPPORTED, a newer version or other byte
 * order: build it again; E_IO, E_NOMEM, E_LIMIT, E_ARGUMENT. Whatever is in the file, no record reaches past the map. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_index *sagemem_index_load(sagemem_map *map, const char *path, const sagemem_index_desc *desc);
SAGEMEM_API void sagemem_index_destroy(sagemem_index *index); /* NULL is fine */

/* Threads of all that follow: any, as long as nobody destroys it; view through a window: the map's owner. */
SAGEMEM_API sagemem_status sagemem_index_get_desc(const sagemem_index *index, sagemem_index_desc *out);
SAGEMEM_API uint64_t sagemem_index_count(const sagemem_index *index);
SAGEMEM_API sagemem_record_kind sagemem_index_kind(const sagemem_index *index);
SAGEMEM_API uint64_t sagemem_index_bytes(const sagemem_index *index); /* of memory, for all records */
/* Where record 0 ... count - 1 lies in the map; offset and size may be NULL. E_ARGUMENT: no such record. Cost: constant. */
SAGEMEM_API sagemem_status sagemem_index_get(const sagemem_index *index, uint64_t record, uint64_t *offset, uint64_t *size);
/* The record that has the map's byte `offset`. E_NOT_FOUND: none has. Cost: a logarithm. */
SAGEMEM_API sagemem_status sagemem_index_find(const sagemem_index *index, uint64_t offset, uint64_t *record);
/* The record's bytes in the map, as by sagemem_map_view; *size (may be NULL) of them. NULL: as that; E_ARGUMENT, no such record;
 * E_STALE, the map was refreshed since. A map that was closed goes to the fault handler. */
SAGEMEM_API const void *sagemem_index_view(const sagemem_index *index, uint64_t record, size_t *size);
/* The same as a slice, to be released; nothing is copied. While there is one, the map cannot be closed (E_BUSY to the fault
 * handler) or refreshed (E_BUSY); when it ends with its scope or heap, that is logged as an error. Zeroed: as for view;
 * E_UNSUPPORTED, the map has a window. Needs SAGEMEM_WITH_SLICE, too. */
SAGEMEM_API SAGEMEM_NODISCARD sagemem_slice sagemem_index_slice(const sagemem_index *index, uint64_t record);

/* ==========================================================================
 * >>report  What a person or a program reads.
 * ========================================================================== */

typedef enum sagemem_format {
    SAGEMEM_FORMAT_TEXT,       /* for a terminal: tags by group, heaps, scopes, open files */
    SAGEMEM_FORMAT_BRIEF,      /* one line */
    SAGEMEM_FORMAT_JSON,       /* everything; "schema" is "sagemem-report-1" */
    SAGEMEM_FORMAT_CSV,        /* a row for each heap and tag: heap,tag,used,peak,blocks,total_blocks */
    SAGEMEM_FORMAT_PROMETHEUS, /* text exposition format, for the textfile collector; heaps of one name are one series */
    SAGEMEM_FORMAT_FOLDED,     /* "group;tag;scope bytes", the heap for what is in no scope: for flame graphs of what is in use */
    SAGEMEM_FORMAT_HTML        /* one page, with nothing loaded: a tree map of the peak, scopes over time, tables */
} sagemem_format;

/* Writes a report of the heap and what is below it (NULL: the process). All numbers are gathered first, then written without a
 * lock: a sink may use the library, and every format adds up to the same `used` and blocks. Exact when nobody is allocating or
 * freeing; else each number is one that was true during the call. Not OK: what the sink said, and the report is cut short;
 * E_NOMEM, E_LIMIT: nothing was written. Up to some 300 rows (heap, scope, tag) nothing is allocated, so that it works when
 * memory has run out; beyond, room is taken of the library's own memory. Heaps that remember sites are also walked block by
 * block. Threads: any. Cost: (heaps and open scopes) * tags, and pages. */
SAGEMEM_API sagemem_status sagemem_report(const sagemem_heap *heap, sagemem_format format, const sagemem_sink *to);
/* The same in a file; "-": standard output. A file is replaced when the new one is complete (never half there, a symbolic link's
 * target, permissions kept); what is no regular file is written to. E_IO: what was there is as it was. */
SAGEMEM_API sagemem_status sagemem_report_file(const sagemem_heap *heap, sagemem_format format, const char *path);
/* Writes a report of the process when it ends through exit() or main's return; path NULL or "": none. leak_exit_status not 0:
 * when blocks are left, they are logged as sagemem_leaks has them, and the process ends with that status; functions that were
 * given to atexit before are then not called. Once per process; later calls change the settings. */
SAGEMEM_API sagemem_status sagemem_report_at_exit(sagemem_format format, const char *path, int leak_exit_status);

/* Writes which blocks are still there, by tag and owner (heap or open scope) and, in heaps with SAGEMEM_HEAP_SITES or _CHECKED,
 * by file and line; to NULL: only counts. heap NULL: the process. Returns their number, also when the sink fails. Sites are told
 * for heaps of the calling thread, for shared ones that no other thread is in just then, and for default heaps of ended
 * threads. Threads: any. */
SAGEMEM_API size_t sagemem_leaks(const sagemem_heap *heap, const sagemem_sink *to);

/* All numbers of a heap and what is below it (NULL: the process) at one moment, to be reported later, or compared with another.
 * Holds no lock and no heap: these may end. NULL: E_NOMEM, E_LIMIT. It lies in the library's own memory until it is freed.
 * Threads: any; a snapshot may be read by many. Cost: as of sagemem_report. */
typedef struct sagemem_snapshot sagemem_snapshot;
SAGEMEM_API SAGEMEM_NODISCARD sagemem_snapshot *sagemem_snapshot_take(const sagemem_heap *heap);
SAGEMEM_API sagemem_status sagemem_snapshot_report(const sagemem_snapshot *snapshot, sagemem_format format, const sagemem_sink *to);
/* Writes what has changed in between, by tag, owner and site: what a forest left behind, which module leaks. TEXT, BRIEF, JSON
 * ("schema" is "sagemem-diff-1"), CSV (heap,scope,tag,used,blocks) or FOLDED (the stack, bytes before, bytes after); others are
 * E_UNSUPPORTED. E_ARGUMENT: the snapshots are not of the same heap. Owners that came or went have nothing in the other. */
SAGEMEM_API sagemem_status sagemem_snapshot_diff(const sagemem_snapshot *before, const sagemem_snapshot *after,
                                                 sagemem_format format, const sagemem_sink *to);
SAGEMEM_API void sagemem_snapshot_free(sagemem_snapshot *snapshot); /* NULL is fine */

/* Runs run(ctx) again and again with one more of its allocations and system calls failing each time, first the
 * 1st, then the 2nd, ... until a run meets no failure; *points says how many there were (NULL: not wanted).
 * run must return OK, or a failure after which everything is as it was before. Returns the last run's
 * status: OK when the undisturbed run succeeded. Only the calling thread's calls fail. For tests. */
SAGEMEM_API sagemem_status sagemem_check_failures(sagemem_status (*run)(void *ctx), void *ctx, uint64_t *points);

/* ==========================================================================
 * Sites: with SAGEMEM_SITES defined before the include, the five short calls (alloc, calloc, realloc, free, strdup)
 * pass on file and line, which heaps with SAGEMEM_HEAP_SITES or _CHECKED keep for messages and sagemem_heap_visit. The
 * functions are the same.
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

/* ==========================================================================
 * >>with-hdf5  Datasets of HDF5: a writer's sink, a reader's source, attributes. Only where SAGEMEM_WITH_HDF5 is 1.
 * ========================================================================== */
#if SAGEMEM_WITH_HDF5 == 1

/* A dataset of one dimension whose elements are records of fixed size. Zero in every field is its default, in brackets. */
typedef struct sagemem_hdf5_desc {
    hid_t location;   /* an open file or group, to be closed by the caller after the sink or source */
    const char *name; /* of the dataset, such as "galaxies" or "snapshot_063/galaxies"; groups on the way are made */
    hid_t type;       /* of a record in memory: a compound of the struct's size with its members, or any type without pointers.
                         Copied. Of a source: [as in the file, in this machine's byte order] */
    /* of a sink: */
    hid_t file_type;          /* of a record in the file; copied [`type` without gaps] */
    const char *const *units; /* of each member of `type`, in their order; NULL for one that has none [no attribute] */
    uint64_t chunk_records;   /* that lie together in the file [what takes some 64 KiB] */
    int deflate;              /* 1 ... 9: chunks are compressed, more and more slowly [not] */
    bool shuffle;             /* ... with bytes of one significance side by side, which compresses better */
    bool append;              /* go on behind the records of a dataset that is there [it is an error] */
    sagemem_heap *heap;
    sagemem_tag tag;
} sagemem_hdf5_desc;

/* For the desc of a writer: *out appends what is written to the dataset, which this makes, or opens if `append`. Positions are
 * bytes of records from the first new one on. Records may be cut anywhere by flushes; a fraction waits for its rest. Patches work
 * everywhere. units: the attribute "units" is a compound with a text for each member of that name.
 * E_ARGUMENT: also a dataset that is there without `append`; E_UNSUPPORTED: types with pointers in them, a compression that HDF5
 * has not, a dataset to append to that does not grow or whose records are others; E_IO, with HDF5's reason; E_NOMEM, E_LIMIT. The
 * file is then as it was, but for groups on the way to the name.
 * out->ctx belongs to the open scope. The writer's close and abandon close the dataset: E_IO, HDF5 could not bring it to the file,
 * which is final; E_ARGUMENT, the last record is a fraction: the whole ones are there. Without a writer: out->close_fn(out->ctx).
 * In `written` of the writer is what HDF5 took: it is the system's after H5Fflush or H5Fclose, or after the writer's close.
 * Threads: those of the writer. Most builds of HDF5 allow one thread at a time in all of it: with `background`, nobody else may
 * use HDF5 until the writer is closed. Cost: of a flush, a call of HDF5 for all whole records. */
SAGEMEM_API sagemem_status sagemem_hdf5_sink(const sagemem_hdf5_desc *desc, sagemem_sink *out);
/* For the desc of a reader: *out reads the records of a dataset that is there when it is opened. E_ARGUMENT; E_NOT_FOUND;
 * E_UNSUPPORTED: more than one dimension, or types with pointers in them; E_IO; E_NOMEM, E_LIMIT. It can seek. Closed by the
 * reader. Threads: as above, with `read_ahead`. */
SAGEMEM_API sagemem_status sagemem_hdf5_source(const sagemem_hdf5_desc *desc, sagemem_input *out);

typedef struct sagemem_hdf5_info {
    hid_t dataset, type;    /* of records in memory; both are closed with the sink or source: attributes of the dataset go here */
    size_t record_bytes;    /* in memory */
    uint64_t records;       /* in the dataset now, those before the sink's included */
    uint64_t chunk_records; /* 0: the dataset is in one piece */
} sagemem_hdf5_info;
/* ctx: that of a sink or source which is not closed. */
SAGEMEM_API sagemem_status sagemem_hdf5_get_info(const void *ctx, sagemem_hdf5_info *out);

/* An attribute of a file, group or dataset: one value of a type, or a text (UTF-8, of variable length, as h5py writes them). One
 * of that name is replaced. E_ARGUMENT; E_IO, with HDF5's reason. */
SAGEMEM_API sagemem_status sagemem_hdf5_attribute(hid_t object, const char *name, hid_t type, const void *value);
SAGEMEM_API sagemem_status sagemem_hdf5_attribute_text(hid_t object, const char *name, const char *text);

#endif /* SAGEMEM_WITH_HDF5 */

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
 * >>os  Pages, locks, threads, clocks, atomics, files: the only code that knows an
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
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
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
/* Begins a cache line: what these functions cost does not change with what lies in front of them. */
#define SMI_HOT __attribute__((aligned(64)))
/* For the few functions that read memory which a tool believes nobody may read. */
#define SMI_PEEKS __attribute__((no_sanitize("address"), no_sanitize("thread"), noinline))

/* 64-bit counters are atomic also where the ABI aligns uint64_t to 4 (i386). */
typedef uint64_t smi_u64 __attribute__((aligned(8)));

/* Relaxed: counters that one thread writes and others read; no other memory is implied by their value.
 * SMI_ADD and SMI_SUB are no read-modify-writes: only the one writer may use them. */
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

/* For durations: a counter that may be cheaper to read than the clock, and what a difference of it is in nanoseconds. */
static uint64_t smi_os_now_ns(void);
#if defined(__x86_64__) && defined(__linux__)
static bool smi_ticks_are_tsc;
static uint64_t smi_ticks_begun, smi_ticks_begun_ns;
static void smi_os_ticks_begin(void) {
    uint32_t a = 0x80000007u, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    smi_ticks_are_tsc = (d >> 8 & 1) != 0; /* invariant: the same rate in all states of power, on all cores */
    smi_ticks_begun_ns = smi_os_now_ns();
    smi_ticks_begun = __builtin_ia32_rdtsc();
}
static uint64_t smi_os_ticks(void) { return smi_ticks_are_tsc ? __builtin_ia32_rdtsc() : smi_os_now_ns(); }
static uint64_t smi_os_ticks_ns(uint64_t ticks) {
    if (!smi_ticks_are_tsc) return ticks;
    double ns = (double)(smi_os_now_ns() - smi_ticks_begun_ns), all = (double)(__builtin_ia32_rdtsc() - smi_ticks_begun);
    return (uint64_t)((double)ticks * (ns / all));
}
#else
static void smi_os_ticks_begin(void) {}
static uint64_t smi_os_ticks(void) { return smi_os_now_ns(); }
static uint64_t smi_os_ticks_ns(uint64_t ticks) { return ticks; }
#endif

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
/* other == smi_self(), for the short paths. */
SMI_INLINE bool smi_is_self(uintptr_t other) {
#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__) && defined(__GCC_ASM_FLAG_OUTPUTS__)
    bool is;
    __asm__("cmpq %%fs:0, %1" : "=@cce"(is) : "r"(other));
    return is;
#else
    return other == smi_self();
#endif
}

#ifdef _WIN32
typedef SRWLOCK smi_lock;
#define SMI_LOCK_INIT SRWLOCK_INIT
static void smi_lock_init(smi_lock *lock) { InitializeSRWLock(lock); }
static void smi_lock_take(smi_lock *lock) { AcquireSRWLockExclusive(lock); }
static bool smi_lock_try(smi_lock *lock) { return TryAcquireSRWLockExclusive(lock) != 0; }
static void smi_lock_give(smi_lock *lock) { ReleaseSRWLockExclusive(lock); }
#else
typedef pthread_mutex_t smi_lock;
#define SMI_LOCK_INIT PTHREAD_MUTEX_INITIALIZER
static void smi_lock_init(smi_lock *lock) { pthread_mutex_init(lock, NULL); }
static void smi_lock_take(smi_lock *lock) { pthread_mutex_lock(lock); }
static bool smi_lock_try(smi_lock *lock) { return pthread_mutex_trylock(lock) == 0; }
static void smi_lock_give(smi_lock *lock) { pthread_mutex_unlock(lock); }
#endif

/* What each thread has of its own. */
typedef struct smi_thread {
    sagemem_heap *heap;          /* its default heap, NULL until first used */
    bool reclaiming;             /* inside the reclaim chain: it is not entered again */
    struct smi_budget *paying;   /* whose allocation it is that the library needs structures for */
    uint64_t fail_at, fail_seen; /* sagemem_check_failures: the point that fails (0: not testing), points met */
    bool fails_now;              /* ... it just did: no second attempt */
    sagemem_error error;
} smi_thread;
static __thread smi_thread smi_mine;

/* True when this call is the one that is to fail. */
static bool smi_os_fails(void) {
    if (SMI_LIKELY(smi_mine.fail_at == 0)) return false;
    if (++smi_mine.fail_seen != smi_mine.fail_at) return false;
    smi_mine.fails_now = true;
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
    bool writable, appends; /* of a handle: open for writing; each write goes to the end, whatever position it names */
    bool unlinked;          /* no name leads to it any more */
} smi_os_info;
typedef enum smi_os_hold { SMI_OS_HOLD_MINE, SMI_OS_HOLD_OTHERS, SMI_OS_HOLD_NONE } smi_os_hold; /* none: locks do not work there */

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
/* What is in the pages may be lost; they stay memory. */
static void smi_os_discard(void *pages, size_t size) { VirtualAlloc(pages, size, MEM_RESET, PAGE_READWRITE); }
static void smi_os_release(void *pages, size_t size) {
    (void)size;
    VirtualFree(pages, 0, MEM_RELEASE);
}
/* Addresses that nobody may touch, set aside for one block; parts become zeroed memory and are given back. */
static void *smi_os_aside(size_t size, size_t alignment) { /* that is for huge pages, which are others here */
    (void)alignment;
    return smi_os_reserve(size);
}
static bool smi_os_aside_open(void *pages, size_t size) { return smi_os_commit(pages, size); }
static void smi_os_aside_shut(void *pages, size_t size) { smi_os_purge(pages, size); }
SMI_FOR_LAYERS void smi_os_populate(void *pages, size_t size) { (void)pages, (void)size; }

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
static void *smi_os_lift(void *pages, size_t size, size_t new_size) { return smi_os_remap(pages, size, new_size); }
static void smi_os_lift_undo(void *at, size_t new_size, void *pages, size_t size) {
    (void)at, (void)new_size, (void)pages, (void)size;
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
typedef void (*smi_os_huge_fn)(void *ctx, uintptr_t begin, uintptr_t end, uint64_t bytes);
static void smi_os_huge_look(smi_os_huge_fn see, void *ctx) { (void)see, (void)ctx; }
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
SMI_FOR_LAYERS bool smi_os_is_again(int error) { return error == ERROR_NO_DATA; }
SMI_FOR_LAYERS bool smi_os_is_there(int error) { return error == ERROR_FILE_EXISTS || error == ERROR_ALREADY_EXISTS; }
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
enum { SMI_OS_IS_DIRECTORY = ERROR_DIRECTORY };
SMI_FOR_LAYERS bool smi_os_info_of(smi_os_handle handle, smi_os_info *info);
SMI_FOR_LAYERS bool smi_os_open_regular(smi_os_handle *handle, const char *path, bool update, smi_os_info *info) {
    *handle = INVALID_HANDLE_VALUE;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails()) return false;
    DWORD attributes = GetFileAttributesA(path);
    if (attributes == INVALID_FILE_ATTRIBUTES) return false;
    info->directory = (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    if (info->directory) return true;
    if (!smi_os_open(handle, path, update ? SMI_OS_UPDATE : SMI_OS_READ, 0)) return false;
    if (smi_os_info_of(*handle, info)) return true;
    DWORD reason = GetLastError();
    CloseHandle(*handle);
    *handle = INVALID_HANDLE_VALUE;
    SetLastError(reason);
    return false;
}
SMI_FOR_LAYERS bool smi_os_may_update(smi_os_handle handle) { return !smi_os_file_fails() && FlushFileBuffers(handle); }
SMI_FOR_LAYERS bool smi_os_info_of(smi_os_handle handle, smi_os_info *info) {
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails()) return false;
    info->writable = true; /* the first write finds out */
    BY_HANDLE_FILE_INFORMATION found;
    if (GetFileType(handle) != FILE_TYPE_DISK) return true;
    if (!GetFileInformationByHandle(handle, &found)) return false;
    info->directory = (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    info->regular = info->seekable = !info->directory;
    info->unlinked = found.nNumberOfLinks == 0;
    info->permissions = 0666;
    info->size = (uint64_t)found.nFileSizeHigh << 32 | found.nFileSizeLow;
    info->modified_ns = ((uint64_t)found.ftLastWriteTime.dwHighDateTime << 32 | found.ftLastWriteTime.dwLowDateTime) * 100u;
    info->device = found.dwVolumeSerialNumber;
    info->inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow;
    return true;
}
SMI_FOR_LAYERS bool smi_os_info_at(const char *path, smi_os_info *info) {
    WIN32_FILE_ATTRIBUTE_DATA found;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails() || !GetFileAttributesExA(path, GetFileExInfoStandard, &found)) return false;
    info->directory = (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    info->regular = !info->directory;
    info->permissions = 0666;
    info->size = (uint64_t)found.nFileSizeHigh << 32 | found.nFileSizeLow;
    return true;
}
SMI_FOR_LAYERS bool smi_os_set_permissions(smi_os_handle handle, unsigned permissions) {
    (void)handle, (void)permissions; /* inherited from the directory here */
    return !smi_os_file_fails();
}
SMI_FOR_LAYERS smi_os_hold smi_os_hold_file(smi_os_handle handle) {
    (void)handle; /* a lock would keep the owner's other handles out, too */
    return SMI_OS_HOLD_NONE;
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
typedef struct smi_os_bell {
    HANDLE event;
} smi_os_bell;
SMI_FOR_LAYERS bool smi_os_bell_make(smi_os_bell *bell) {
    if (smi_os_file_fails()) return false;
    bell->event = CreateEventA(NULL, TRUE, FALSE, NULL);
    return bell->event != NULL;
}
SMI_FOR_LAYERS void smi_os_bell_ring(const smi_os_bell *bell) { SetEvent(bell->event); }
SMI_FOR_LAYERS void smi_os_bell_close(const smi_os_bell *bell) { CloseHandle(bell->event); }
/* Pipes cannot be waited for together with an event: they are looked at every 5 ms. */
SMI_FOR_LAYERS bool smi_os_wait_readable(smi_os_handle handle, const smi_os_bell *bell) {
    DWORD available = 0;
    do {
        if (!PeekNamedPipe(handle, NULL, 0, NULL, &available, NULL) || available > 0) return true; /* no pipe, ended, or ready */
    } while (WaitForSingleObject(bell->event, 5) == WAIT_TIMEOUT);
    return false;
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
SMI_FOR_LAYERS bool smi_os_sync(smi_os_handle handle, bool *lost) {
    *lost = false;
    if (smi_os_file_fails()) return false;
    if (GetFileType(handle) != FILE_TYPE_DISK || FlushFileBuffers(handle)) return true;
    *lost = true;
    return false;
}
SMI_FOR_LAYERS bool smi_os_settle(smi_os_handle handle, bool *lost) {
    (void)handle; /* CloseHandle has no news of what was written */
    *lost = false;
    return true;
}
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
SMI_FOR_LAYERS const char *smi_os_name_in(const char *path) {
    const char *name = path;
    for (; *path != '\0'; path++)
        if (*path == '/' || *path == '\\' || *path == ':') name = path + 1;
    return name;
}
SMI_FOR_LAYERS bool smi_os_real_target(const char *path, char *real, size_t size) {
    DWORD n = smi_os_file_fails() ? 0 : GetFullPathNameA(path, (DWORD)size, real, NULL);
    if (n >= size) SetLastError(ERROR_FILENAME_EXCED_RANGE);
    return n > 0 && n < size;
}
SMI_FOR_LAYERS void smi_os_each_name(const char *directory, void (*name_fn)(void *ctx, const char *name), void *ctx) {
    char pattern[MAX_PATH + 4];
    WIN32_FIND_DATAA found;
    if (strlen(directory) >= MAX_PATH || smi_os_file_fails()) return;
    memcpy(pattern, directory, strlen(directory));
    memcpy(pattern + strlen(directory), "*", 2);
    HANDLE search = FindFirstFileA(pattern, &found);
    if (search == INVALID_HANDLE_VALUE) return;
    do name_fn(ctx, found.cFileName);
    while (FindNextFileA(search, &found));
    FindClose(search);
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
    SIZE_T n = 0;
    *done = 0;
    if (smi_os_fails()) return false;
    bool ok = ReadProcessMemory(GetCurrentProcess(), from, to, size, &n) != 0;
    *done = n;
    return ok || GetLastError() == ERROR_PARTIAL_COPY;
}

#else /* POSIX */

static int smi_os_error(void) { return errno; }

static size_t smi_os_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

static void *smi_os_map_anywhere(size_t size, int access) {
    if (smi_os_fails()) return NULL;
    void *at = mmap(NULL, size, access, MAP_PRIVATE | SMI_MAP_ANONYMOUS | SMI_MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Zeroed pages at a multiple of alignment: more than needed, then both ends cut off. */
static void *smi_os_map_for(size_t size, size_t alignment, int access) {
    char *at = (char *)smi_os_map_anywhere(size, access);
    if (at == NULL || ((uintptr_t)at & (alignment - 1)) == 0) return at;
    munmap(at, size);
    if (size + alignment < size) return NULL;
    at = (char *)smi_os_map_anywhere(size + alignment, access);
    if (at == NULL) return NULL;
    char *fit = (char *)(((uintptr_t)at + alignment - 1) & ~(uintptr_t)(alignment - 1));
    if (fit > at) munmap(at, (size_t)(fit - at));
    if (at + alignment > fit) munmap(fit + size, (size_t)(at + alignment - fit));
    return fit;
}

static void *smi_os_map(size_t size, size_t alignment) { return smi_os_map_for(size, alignment, PROT_READ | PROT_WRITE); }

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
/* What is in the pages may be lost; they stay memory. */
static void smi_os_discard(void *pages, size_t size) { smi_os_purge(pages, size); }
static void smi_os_release(void *pages, size_t size) { munmap(pages, size); }

/* Addresses that nobody may touch, set aside for one block; parts become zeroed memory and are given back. The kernel
 * merges neighbours of the same access: it is one mapping that grows into another, however often that is done. */
static void *smi_os_aside(size_t size, size_t alignment) { return smi_os_map_for(size, alignment, PROT_NONE); }
static bool smi_os_aside_open(void *pages, size_t size) {
    return !smi_os_fails() && mprotect(pages, size, PROT_READ | PROT_WRITE) == 0;
}
static void smi_os_aside_shut(void *pages, size_t size) {
    smi_os_purge(pages, size);
    (void)mprotect(pages, size, PROT_NONE); /* refused: then they can be touched, and read as zero */
}

/* Pages that will be written at once get their memory in one call, in two thirds to nine tenths of the time of a fault for
 * each. Where the kernel cannot (before Linux 5.14), and where memory is short, they get it when they are touched. */
SMI_FOR_LAYERS void smi_os_populate(void *pages, size_t size) {
#if defined(__linux__)
    enum { SMI_POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE, which old headers lack */
    int reason = errno;
    if (madvise(pages, size, SMI_POPULATE_WRITE) != 0) errno = reason;
#else
    (void)pages, (void)size;
#endif
}

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

/* Moves part of a mapping into one of its own, which then grows; zeroed pages stay behind. NULL: as before (older than
 * Linux 5.7, or not one mapping: the caller copies). In two steps, as what is moved and what is new must be one mapping. */
static void smi_os_lift_undo(void *at, size_t new_size, void *pages, size_t size) {
#if defined(__linux__) && defined(SYS_mremap)
    if (new_size > size) munmap((char *)at + size, new_size - size);
    (void)syscall(SYS_mremap, at, size, size, 3L /* MREMAP_MAYMOVE | MREMAP_FIXED: over zeroed pages of ours */, pages);
#else
    (void)at, (void)new_size, (void)pages, (void)size;
#endif
}
static void *smi_os_lift(void *pages, size_t size, size_t new_size) {
#if defined(__linux__) && defined(SYS_mremap)
    if (smi_os_fails()) return NULL;
    long at = syscall(SYS_mremap, pages, size, size, 5L /* MREMAP_MAYMOVE | MREMAP_DONTUNMAP */, 0L);
    if (at == -1) return NULL;
    void *grown = smi_os_remap((void *)at, size, new_size);
    if (grown == NULL) smi_os_lift_undo((void *)at, size, pages, size);
    return grown;
#else
    (void)pages, (void)size, (void)new_size;
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

/* What the system made of such wishes: see(ctx, begin, end, bytes) for each mapping with so many bytes on huge pages. */
typedef void (*smi_os_huge_fn)(void *ctx, uintptr_t begin, uintptr_t end, uint64_t bytes);
#ifdef __linux__
/* A line of smaps: "7f00-7fff rw-p ..." begins a mapping, "AnonHugePages:   2048 kB" is of the one begun last. */
static void smi_os_huge_line(const char *line, uintptr_t range[2], smi_os_huge_fn see, void *ctx) {
    char *rest;
    uintptr_t first = (uintptr_t)strtoull(line, &rest, 16);
    if (*rest == '-') {
        range[0] = first;
        range[1] = (uintptr_t)strtoull(rest + 1, NULL, 16);
    } else if (strncmp(line, "AnonHugePages:", 14) == 0) {
        uint64_t bytes = strtoull(line + 14, NULL, 10) * 1024u;
        if (bytes > 0) see(ctx, range[0], range[1], bytes);
    }
}
#endif
static void smi_os_huge_look(smi_os_huge_fn see, void *ctx) {
#ifdef __linux__
    char text[4096]; /* of longer lines (paths) the rest is no line that is wanted */
    uintptr_t range[2] = {0, 0};
    size_t have = 0;
    int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0) {
        ssize_t n = read(fd, text + have, sizeof text - 1 - have);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        have += (size_t)n;
        text[have] = '\0';
        char *line = text;
        for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) smi_os_huge_line(line, range, see, ctx);
        have = line == text && have == sizeof text - 1 ? 0 : (size_t)(text + have - line);
        memmove(text, line, have);
    }
    if (fd >= 0) close(fd);
#else
    (void)see, (void)ctx;
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
SMI_FOR_LAYERS bool smi_os_is_again(int error) { return error == EAGAIN || error == EWOULDBLOCK; }
SMI_FOR_LAYERS bool smi_os_is_there(int error) { return error == EEXIST; }
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
static void smi_os_info_from(const struct stat *found, smi_os_info *info) {
    memset(info, 0, sizeof *info);
    info->regular = S_ISREG(found->st_mode);
    info->directory = S_ISDIR(found->st_mode);
    info->unlinked = found->st_nlink == 0;
    info->permissions = (unsigned)found->st_mode & 07777u;
    info->size = (uint64_t)found->st_size;
#ifdef __APPLE__
    info->modified_ns = (uint64_t)found->st_mtimespec.tv_sec * 1000000000u + (uint64_t)found->st_mtimespec.tv_nsec;
#else
    info->modified_ns = (uint64_t)found->st_mtim.tv_sec * 1000000000u + (uint64_t)found->st_mtim.tv_nsec;
#endif
    info->device = (uint64_t)found->st_dev;
    info->inode = (uint64_t)found->st_ino;
}
SMI_FOR_LAYERS bool smi_os_info_of(smi_os_handle handle, smi_os_info *info) {
    struct stat found;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails() || fstat(handle, &found) != 0) return false;
    smi_os_info_from(&found, info);
    int flags = fcntl(handle, F_GETFL);
    if (flags < 0) return false;
    info->seekable = lseek(handle, 0, SEEK_CUR) >= 0;
    info->writable = (flags & O_ACCMODE) != O_RDONLY;
    info->appends = (flags & O_APPEND) != 0;
    return info->seekable || !info->regular; /* a file that is taken for a pipe would be written in the wrong place */
}
enum { SMI_OS_IS_DIRECTORY = EISDIR };
/* Opens a regular file. Anything else is only looked at, *handle is none: to open a FIFO is to wait for its other end, or to wake
 * who waits there. O_NONBLOCK is for a FIFO that takes the file's place between the two calls. */
SMI_FOR_LAYERS bool smi_os_open_regular(smi_os_handle *handle, const char *path, bool update, smi_os_info *info) {
    struct stat found;
    *handle = -1;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails() || stat(path, &found) != 0) return false;
    info->directory = S_ISDIR(found.st_mode);
    if (!S_ISREG(found.st_mode)) return true;
    if (smi_os_file_fails()) return false;
    do *handle = open(path, (update ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    while (*handle < 0 && errno == EINTR);
    if (*handle < 0) return false;
    if (smi_os_info_of(*handle, info) && fcntl(*handle, F_SETFL, 0) == 0) return true;
    int reason = errno;
    close(*handle);
    *handle = -1;
    errno = reason;
    return false;
}
/* Whether bytes can be read and written at positions: not through a descriptor that only reads, only writes or appends. */
SMI_FOR_LAYERS bool smi_os_may_update(smi_os_handle handle) {
    if (smi_os_file_fails()) return false;
    int flags = fcntl(handle, F_GETFL);
    if (flags >= 0 && (flags & O_ACCMODE) == O_RDWR && (flags & O_APPEND) == 0) return true;
    if (flags >= 0) errno = EBADF;
    return false;
}
SMI_FOR_LAYERS bool smi_os_info_at(const char *path, smi_os_info *info) {
    struct stat found;
    memset(info, 0, sizeof *info);
    if (smi_os_file_fails() || stat(path, &found) != 0) return false;
    smi_os_info_from(&found, info);
    return true;
}
SMI_FOR_LAYERS bool smi_os_set_permissions(smi_os_handle handle, unsigned permissions) {
    return !smi_os_file_fails() && fchmod(handle, (mode_t)permissions) == 0;
}
/* Marks a file as in use until its last handle is closed, by whatever end of the process. Never waits. */
SMI_FOR_LAYERS smi_os_hold smi_os_hold_file(smi_os_handle handle) {
    if (smi_os_file_fails()) return SMI_OS_HOLD_NONE;
    if (flock(handle, LOCK_EX | LOCK_NB) == 0) return SMI_OS_HOLD_MINE;
    return errno == EWOULDBLOCK ? SMI_OS_HOLD_OTHERS : SMI_OS_HOLD_NONE;
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
/* What ends a wait for input in another thread. Rung once, it is heard for ever. */
typedef struct smi_os_bell {
    int hear, ring;
} smi_os_bell;
SMI_FOR_LAYERS bool smi_os_bell_make(smi_os_bell *bell) {
    if (smi_os_file_fails()) return false;
#ifdef __linux__
    bell->hear = bell->ring = eventfd(0, EFD_CLOEXEC);
    return bell->hear >= 0;
#else
    int ends[2];
    if (pipe(ends) != 0) return false;
    bell->hear = ends[0];
    bell->ring = ends[1];
    fcntl(bell->hear, F_SETFD, FD_CLOEXEC);
    fcntl(bell->ring, F_SETFD, FD_CLOEXEC);
    return true;
#endif
}
SMI_FOR_LAYERS void smi_os_bell_ring(const smi_os_bell *bell) {
    uint64_t one = 1; /* what an eventfd wants; a pipe takes it as well */
    ssize_t n;
    do n = write(bell->ring, &one, sizeof one);
    while (n < 0 && errno == EINTR);
}
SMI_FOR_LAYERS void smi_os_bell_close(const smi_os_bell *bell) {
    close(bell->hear);
    if (bell->ring != bell->hear) close(bell->ring);
}
/* Waits until a read would not wait (bytes, the end, or an error that it will tell): true; or until the bell rings: false. */
SMI_FOR_LAYERS bool smi_os_wait_readable(smi_os_handle handle, const smi_os_bell *bell) {
    struct pollfd wait[2];
    memset(wait, 0, sizeof wait);
    wait[0].fd = handle;
    wait[1].fd = bell->hear;
    wait[0].events = wait[1].events = POLLIN;
    int n;
    do n = poll(wait, 2, -1);
    while (n < 0 && errno == EINTR);
    return n < 0 || wait[1].revents == 0;
}
/* Past RLIMIT_FSIZE, and on a pipe that nobody reads, a write raises a signal that kills by default. A library reports
 * instead: both are blocked around the call, and the one that it raised is taken off again, unless it had been waiting. */
typedef struct smi_os_hush {
    sigset_t mask, waiting; /* before */
} smi_os_hush;
SMI_FOR_LAYERS void smi_os_hush_begin(smi_os_hush *h) {
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGPIPE);
    sigaddset(&both, SIGXFSZ);
    sigemptyset(&h->waiting);
    pthread_sigmask(SIG_BLOCK, &both, &h->mask);
    if (sigismember(&h->mask, SIGPIPE) == 1 || sigismember(&h->mask, SIGXFSZ) == 1) sigpending(&h->waiting);
}
SMI_FOR_LAYERS void smi_os_hush_end(const smi_os_hush *h, bool failed) {
    int reason = errno, taken = failed && reason == EPIPE ? SIGPIPE : failed && reason == EFBIG ? SIGXFSZ : 0;
    sigset_t raised;
    if (taken != 0 && sigismember(&h->waiting, taken) == 0 && sigpending(&raised) == 0 && sigismember(&raised, taken) == 1) {
        sigemptyset(&raised);
        sigaddset(&raised, taken);
        sigwait(&raised, &taken);
    }
    pthread_sigmask(SIG_SETMASK, &h->mask, NULL);
    errno = reason;
}
SMI_FOR_LAYERS bool smi_os_put(ssize_t n, size_t size, size_t *put) {
    if (n > 0) *put = (size_t)n;
    if (n == 0 && size > 0) errno = EIO; /* no reason given: the caller would try for ever */
    return n > 0 || size == 0;
}
/* *put may be less than size: the caller goes on behind it, and meets the reason. */
SMI_FOR_LAYERS bool smi_os_write_at(smi_os_handle handle, const void *data, size_t size, uint64_t offset, size_t *put) {
    *put = 0;
    off_t at;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails() || !smi_os_offset(offset, size, &at)) return false;
    ssize_t n;
    smi_os_hush hush;
    smi_os_hush_begin(&hush);
    do n = pwrite(handle, data, size, at);
    while (n < 0 && errno == EINTR);
    smi_os_hush_end(&hush, n < 0);
    return smi_os_put(n, size, put);
}
SMI_FOR_LAYERS bool smi_os_write(smi_os_handle handle, const void *data, size_t size, size_t *put) {
    *put = 0;
    if (size > SMI_OS_IO_MAX) size = SMI_OS_IO_MAX;
    if (smi_os_file_fails()) return false;
    ssize_t n;
    smi_os_hush hush;
    smi_os_hush_begin(&hush);
    do n = write(handle, data, size);
    while (n < 0 && errno == EINTR);
    smi_os_hush_end(&hush, n < 0);
    return smi_os_put(n, size, put);
}
/* What has nothing to sync (a pipe, a terminal) is in sync. *lost: the system tried, and may have dropped what it could not
 * write: a later call that succeeds proves nothing (Rebello et al., Can Applications Recover from fsync Failures?, 2020). */
SMI_FOR_LAYERS bool smi_os_sync(smi_os_handle handle, bool *lost) {
    *lost = false;
    if (smi_os_file_fails()) return false;
#ifdef __APPLE__
    if (fcntl(handle, F_FULLFSYNC) == 0) return true; /* fsync stops at the drive's cache there */
#endif
    int failed;
    do failed = fsync(handle);
    while (failed != 0 && errno == EINTR);
    *lost = failed != 0 && errno != EINVAL && errno != ENOTSUP;
    return !*lost;
}
/* What close would say of the bytes written (network file systems tell only then), while the handle stays. *lost: as above. */
SMI_FOR_LAYERS bool smi_os_settle(smi_os_handle handle, bool *lost) {
    smi_os_handle copy;
    *lost = false;
    if (!smi_os_duplicate(&copy, handle)) return false;
    *lost = !smi_os_close(copy);
    return !*lost;
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
    bool lost, ok = smi_os_sync(handle, &lost);
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
/* Behind the last separator. */
SMI_FOR_LAYERS const char *smi_os_name_in(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}
/* The file that writing to `path` would replace: absolute, without symbolic links. It need not be there, its directory must. */
SMI_FOR_LAYERS bool smi_os_real_target(const char *path, char *real, size_t size) {
    if (smi_os_file_fails()) return false;
    char *found = realpath(path, NULL);
    const char *name = "";
    if (found == NULL && errno == ENOENT && strlen(path) < size) {
        name = smi_os_name_in(path);
        memcpy(real, path, (size_t)(name - path));
        memcpy(real + (name - path), ".", 2); /* "dir/." or "." */
        found = realpath(real, NULL);
    }
    if (found == NULL) return false;
    size_t length = strlen(found), more = strlen(name), slash = more > 0 && found[length - 1] != '/' ? 1 : 0;
    bool fits = length + slash + more < size;
    if (fits) {
        memcpy(real, found, length);
        if (slash == 1) real[length] = '/';
        memcpy(real + length + slash, name, more + 1);
    }
    free(found);
    if (!fits) errno = ENAMETOOLONG;
    return fits;
}
/* Every name in a directory ("dir/"); none where it cannot be read. */
SMI_FOR_LAYERS void smi_os_each_name(const char *directory, void (*name_fn)(void *ctx, const char *name), void *ctx) {
    DIR *list = smi_os_file_fails() ? NULL : opendir(directory);
    if (list == NULL) return;
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) name_fn(ctx, entry->d_name);
    closedir(list);
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
    void *at = mmap(NULL, size, mode == SAGEMEM_MAP_READ ? PROT_READ : PROT_READ | PROT_WRITE, flags, handle, from);
    if (at == MAP_FAILED) return NULL;
#if !defined(MAP_POPULATE) && defined(MADV_WILLNEED)
    if (populate) (void)madvise(at, size, MADV_WILLNEED);
#endif
    (void)populate;
    return at;
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
    if (smi_os_fails()) return false;
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
/* A block is resized where it is. */
static void smi_watch_resize(const void *block, size_t from, size_t to) {
    const char *at = (const char *)block;
#ifdef SMI_ASAN
    if (to > from) __asan_unpoison_memory_region((void const volatile *)(at + from), to - from);
    else __asan_poison_memory_region((void const volatile *)(at + to), from - to);
#endif
#ifdef SMI_VALGRIND
    if (smi_on_valgrind) VALGRIND_RESIZEINPLACE_BLOCK(at, from, to, 0);
#endif
    (void)at, (void)from, (void)to;
}
/* What a block holds goes on in another one: also where a layer has shut a part of it. */
static void smi_watch_copy(void *to, const void *block, size_t size) {
#ifdef SMI_ASAN
    __asan_unpoison_memory_region((void const volatile *)block, size);
#endif
    smi_quiet_begin();
    memcpy(to, block, size);
    smi_quiet_end();
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

/* Locks of the whole process, in the order in which they may be taken: a shared heap's use lock (it is held while clean-ups and
 * reclaimers run), then registry, then one heap's lock, then stats, system, span, names, meta, layers; a child heap's lock before
 * its parent's. */
static smi_lock smi_registry_lock = SMI_LOCK_INIT; /* heaps, tags, reclaimers, settings of the process */
static smi_lock smi_stats_lock = SMI_LOCK_INIT;    /* what was published for peaks */
static smi_lock smi_system_lock = SMI_LOCK_INIT;   /* blocks of SAGEMEM_HEAP_SYSTEM */
static smi_lock smi_span_lock = SMI_LOCK_INIT;     /* regions, page map, obituaries */
static smi_lock smi_names_lock = SMI_LOCK_INIT;    /* names */
static smi_lock smi_meta_lock = SMI_LOCK_INIT;     /* the library's own structures */
static smi_lock smi_layers_lock = SMI_LOCK_INIT;   /* what a layer adds up over the process */

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
    SMI_MAP_WHOLE = 1 << 20,       /* of a huge block above, the page map has the start only */
    SMI_KEEP_MAX = 1 << 20,        /* bytes of empty pages a heap keeps, and of spare chunks */
    SMI_LOOK_MOST = 1 << 18,       /* bytes that may be allocated between two looks at peaks, see smi_event_due */
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

/* A free block of a slab page: proof = next ^ key. Writing over either word breaks the proof, and a
 * block that carries a proof is not handed out: double frees and late writes are seen without a walk. The last one's
 * next is smi_no_cell, which proves nothing: keys are odd, addresses are not. */
typedef struct smi_cell {
    struct smi_cell *next;
    uintptr_t proof;
} smi_cell;
static smi_cell smi_no_cell;

typedef enum smi_slab_state { SMI_SLAB_CURRENT, SMI_SLAB_FULL, SMI_SLAB_QUEUED, SMI_SLAB_EMPTY } smi_slab_state;

/* One page. The first line of 64 bytes is what alloc and free of a slab block touch. */
typedef struct smi_page {
    uintptr_t owner;     /* thread that may take the short paths; 0: nobody (other kinds, watched, shared, ended) */
    smi_cell *cells;     /* slab: free blocks */
    uintptr_t key;       /* slab: see smi_cell; odd */
    char *start;         /* slab: first block; chunk: first byte; huge: the block */
    uint64_t inverse;    /* slab: just above 2^64 / block_size, see smi_slab_place; */
    smi_u64 bound;       /* the place of a block handed out or threaded so far is below this */
    uint32_t total;      /* slab: blocks ever handed out, less `folded` */
    uint32_t freed;      /* slab: of these, given back by the owner; total - freed - remote count are in use */
    uint32_t trigger;    /* slab: when `freed` gets here, smi_slab_event decides what becomes of the page */
    uint32_t block_size; /* slab */
    /* second line: what a page that changes hands needs, and statistics; other threads write here */
    uint32_t limit;       /* slab: bytes of blocks handed out or threaded so far */
    uint16_t capacity;    /* slab: blocks */
    uint16_t class_index; /* slab */
    uint32_t remote;      /* slab: freed by other threads: count << 16 | index of the first + 1 */
    sagemem_tag tag;
    uint8_t kind, state;
    struct sagemem_heap *domain;
    struct smi_page *next, *prev; /* slab: the class's queue (circular); dead: list */
    struct smi_page *domain_next; /* all pages of a domain; slab pages: of its tag's record */
    struct smi_page *remote_next; /* slab: in the heap's list of pages with remote frees */
    smi_u64 folded;               /* slab: blocks handed out before `total` was last reset */
    /* third line */
    struct smi_page *domain_prev;
    char *base;          /* the span */
    size_t bytes;        /* its size */
    char *top;           /* chunk: end of the formatted part */
    size_t size;         /* huge: usable bytes */
    size_t reserved;     /* huge: addresses set aside, `bytes` of them memory; 0: all of it is */
    const char *file;    /* huge: site; dead, spare: kind of the scope */
    uint64_t id;         /* dead, spare: id of the scope */
    const char *name;    /* dead: the heap's, interned */
    int line;            /* huge: site */
    uint32_t references; /* dead: page map entries */
    uint32_t huge_state; /* huge: 0 live, 1 freed by another thread */
    uint32_t unseen_at;  /* huge: the heap's `looks` if that look has not counted it yet */
    uint8_t origin;
    bool on_huge_pages;
} smi_page;

/* How much a (tag, class) is used before it has slab pages. */
typedef struct smi_rare {
    uint16_t live, recent; /* blocks now; allocations, halved now and then */
} smi_rare;

/* Slab pages of one tag in one heap. */
typedef struct smi_bins {
    smi_page *current[SMI_CLASSES]; /* never NULL: smi_near.nobody stands for none */
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
    smi_u64 fresh[SMI_GROUP]; /* a fresh scope's blocks that are not in their record yet: see smi_fresh_bytes */
    smi_record record[SMI_GROUP];
} smi_group;

/* held <= limit at every moment. reserved is part of held. */
typedef struct smi_budget {
    struct smi_budget *up;
    smi_u64 held, peak, limit, reserved;
} smi_budget;

/* Of the scopes that have ended in a heap the worst of each run of `stride`, so that all of the run fits however many there
 * were: when the last slot is taken, two neighbours become one. The worst of all is always among them. */
enum { SMI_PAST_SLOTS = 64 };
typedef struct smi_past_scope {
    const char *kind;
    uint64_t id, used_peak, held_peak;
    uint64_t began, lasted; /* smi_os_ticks */
    uint64_t count;         /* of scopes that it stands for */
} smi_past_scope;
typedef struct smi_past {
    smi_past_scope slot[SMI_PAST_SLOTS];
    uint64_t stride;
    uint32_t slots;
} smi_past;

struct smi_object_kind;
/* What a layer made from a heap: see smi_object_create. First member of its structure. */
typedef struct smi_object {
    struct smi_object *older, *newer; /* of the same domain */
    const struct smi_object_kind *kind;
    struct sagemem_heap *domain; /* the scope or heap that it belongs to, takes from and ends with; smi_process: it has ended */
    const char *name;            /* in messages and reports; interned, or NULL */
    const char *file;            /* that it has open: reports list it; NULL: none. Under the heap's lock */
    smi_u64 mapped, buffered;    /* bytes of that file in memory, for reports */
    uintptr_t quick;             /* the thread that may take its short paths: the heap's owner; 0: nobody. See smi_objects_shut */
    bool ending;                 /* in no list any more */
    bool busy;                   /* a function of the program's that it called is running: see smi_object_enter_alone */
} smi_object;

typedef struct smi_free_block smi_free_block; /* chunk: links in a free block */

struct sagemem_heap {
    uintptr_t quick;          /* heap: which short path sagemem_alloc may take now: the owner: of slab pages; owner | SMI_FRESH: of
                               * the innermost scope; 0: none; see smi_heap_quick */
    uintptr_t quick_bump;     /* scope: the owner where blocks of it may be freed by the short path, else 0 */
    uintptr_t owner;          /* thread; 0: none; SMI_ANY: shared */
    uintptr_t magic;          /* tells a heap from anything else: SMI_MAGIC ^ address, or SMI_ENDED ^ address */
    struct sagemem_heap *top; /* innermost open scope, or itself */
    smi_bins **bins;          /* by tag; NULL entries do not exist: smi_no_bins */
    size_t bins_count;
    bool fast;                /* slab pages, short paths */
    bool slab;                /* slab pages */
    bool bump;                /* scope: freed small blocks stay apart, for the exact size */
    bool exact;               /* peaks are kept with every block, */
    bool fresh;               /* but for those in smi_group.fresh: a scope of which nothing has been freed yet */
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
    bool closing; /* scope: sagemem_scope_end is at work; no pages go to the system till it is done */
    sagemem_source source;
    smi_budget budget;
    /* memory */
    uint64_t list_map[2]; /* which of `lists` are not empty */
    smi_page *pages;      /* chunk and huge pages; slab pages hang on their records */
    smi_page *spares;     /* chunks of ended scopes */
    size_t spare_bytes, empty_bytes, chunk_bytes, slab_bytes;
    smi_u64 header_bytes; /* in front of and behind blocks, where it is not the one word of a chunk: see smi_headers */
    smi_u64 huge_page_bytes;
    uint32_t page_count;
    uint32_t looks;     /* how often smi_publish has looked; not 0 then */
    size_t event_bytes; /* since the last look: what may have been allocated (the room of slab pages that became current, blocks in
                         * chunks, chunks, huge blocks) or has gone (pages, large blocks). Only the owner adds, any thread's look
                         * sets it to 0: then a race costs one look too many */
    smi_u64 scopes;     /* open */
    uint64_t scopes_begun;
    size_t scope_bytes;                  /* of chunks, that the last one used */
    struct sagemem_heap *ended, *unused; /* heap: the scope that ended last; scope structures to reuse */
    uint64_t began, ended_after;         /* scope: smi_os_ticks */
    smi_object *objects;                 /* newest first */
    smi_u64 mapped;                      /* heap: bytes of mapped files */
    void *quarantine_first, *quarantine_last;
    size_t quarantine_bytes;
    void *system_blocks;
    uint32_t visits;       /* of these, under way */
    struct smi_rare *rare; /* slab heap: which (tag, class) should have slab pages */
    uint32_t rare_total;
    struct smi_hand *hands; /* see sagemem_allocator_for */
    smi_past *past;         /* heap: of its ended scopes; made with the first */
    /* A scope's structure is used again: from here on nothing is cleared that has not been used. */
    smi_free_block *lists[SMI_LISTS];
    uint32_t groups_end;
    smi_group *group[SMI_GROUPS];
};
typedef struct sagemem_heap smi_domain;

enum { SMI_FRESH = 1 }; /* see sagemem_heap.quick; smi_self() is even */
static const uintptr_t SMI_ANY = 1;
static const uintptr_t SMI_MAGIC = (uintptr_t)0x5A6E3E3D9C1B7F25u, SMI_ENDED = (uintptr_t)0x1D0E2A77C35B9E61u;

static smi_domain smi_process; /* totals, limit and children: the heaps without a parent */
static bool smi_watched;       /* Valgrind or AddressSanitizer looks on */
static uint64_t smi_secret;    /* drawn once, then the same for good: what was keyed with it is checked with it, by any thread */
static uint64_t smi_salts;     /* another one for each heap; with the registry's lock */
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

/* A direct-mapped cache of the map for the short paths: one load, no branch. Its entries are distances from its own start,
 * where a page lies that nobody owns: so zero is a page, too. It may be the wrong page, for addresses 8 GiB apart share an entry:
 * who uses it makes sure that the block lies in the page, as smi_slab_place tells. */
enum { SMI_NEAR = 1 << 19, SMI_NEAR_SCALE = sizeof(uintptr_t) == 8 ? 3 : 2 }; /* entries: for 8 GiB of addresses */
static struct smi_near {
    smi_page nobody;
    uintptr_t page[SMI_NEAR];
} smi_near;
SMI_INLINE smi_page *smi_lookup_near(const void *pointer) {
    const int shift = (int)SMI_GRANULE_SHIFT - (int)SMI_NEAR_SCALE;
    uintptr_t at = ((uintptr_t)pointer >> shift) & ((uintptr_t)(SMI_NEAR - 1) << SMI_NEAR_SCALE);
    uintptr_t base = (uintptr_t)&smi_near;
    __asm__("" : "+r"(base)); /* one register for both */
    const uintptr_t *entry = (const uintptr_t *)(base + offsetof(struct smi_near, page) + at);
    /* acquire: pairs with the release in smi_map_set, so that the page's fields are seen */
    return (smi_page *)(base + __atomic_load_n(entry, __ATOMIC_ACQUIRE));
}

/* The page that an address lies in, or NULL. Any pointer at all; takes no lock. */
SMI_INLINE smi_page *smi_lookup(const void *pointer) {
    uintptr_t granule = (uintptr_t)pointer >> SMI_GRANULE_SHIFT;
    if (SMI_UNLIKELY(granule >> SMI_LEAF_SHIFT >= SMI_ROOT)) return NULL;
    smi_page **leaf = __atomic_load_n(&smi_map_root[granule >> SMI_LEAF_SHIFT], __ATOMIC_ACQUIRE);
    if (SMI_UNLIKELY(leaf == NULL)) return NULL;
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

/* Of a page, the map has all of it; but of a large huge block, or one that may become large, only where the block starts,
 * so that the cost does not grow with its size. (Two of these never start in the same granule: they are larger.) */
static bool smi_map_whole(const smi_page *page) {
    return page->kind != SMI_HUGE || (page->bytes <= SMI_MAP_WHOLE && page->reserved == 0);
}
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
        uintptr_t *cached = &smi_near.page[i & (SMI_NEAR - 1)];
        bool live = page != NULL && page->kind != SMI_DEAD;
        if (live) SMI_STORE_RELEASE(cached, (uintptr_t)page - (uintptr_t)&smi_near);
        else if (SMI_LOAD(cached) == (uintptr_t)old - (uintptr_t)&smi_near) SMI_STORE(cached, (uintptr_t)0);
    }
}

/* A huge block of a region gets another size where it lies; `gone` is what the map shows of what leaves it. */
static void smi_map_resize(smi_page *page, size_t bytes, smi_page *gone) {
    size_t before = smi_map_whole(page) ? page->bytes : (size_t)SMI_GRANULE;
    page->bytes = bytes;
    size_t after = smi_map_whole(page) ? bytes : (size_t)SMI_GRANULE;
    if (after > before) smi_map_set(page->base + before, after - before, page);
    if (after < before) smi_map_set(page->base + after, before - after, gone);
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

/* Undefined contents; NULL: E_NOMEM or E_LIMIT is set. */
static void *smi_meta_take(size_t size) {
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
    return at;
}

/* The same, zeroed. */
static void *smi_meta_alloc(size_t size) {
    (void)smi_meta_class(&size);
    void *at = smi_meta_take(size);
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
/* The bits of word `word` that lie in [from, end). */
SMI_INLINE uint64_t smi_bits_of(size_t word, size_t from, size_t end) {
    uint64_t mask = ~(uint64_t)0;
    if (word == from / 64) mask &= ~(uint64_t)0 << (from % 64);
    if (word == end / 64) mask &= ~(~(uint64_t)0 << (end % 64));
    return mask;
}
static void smi_bits_set(uint64_t *map, size_t from, size_t n) {
    for (size_t w = from / 64; w * 64 < from + n; w++) map[w] |= smi_bits_of(w, from, from + n);
}
static void smi_bits_clear(uint64_t *map, size_t from, size_t n) {
    for (size_t w = from / 64; w * 64 < from + n; w++) map[w] &= ~smi_bits_of(w, from, from + n);
}
static size_t smi_bits_count(const uint64_t *map, size_t from, size_t n) {
    size_t count = 0;
    for (size_t w = from / 64; w * 64 < from + n; w++)
        count += (size_t)__builtin_popcountll((unsigned long long)(map[w] & smi_bits_of(w, from, from + n)));
    return count;
}
/* The first bit of [from, end) that is as wanted, or end. */
static size_t smi_bits_next(const uint64_t *map, size_t from, size_t end, bool wanted) {
    for (size_t w = from / 64; w * 64 < end; w++) {
        uint64_t found = (wanted ? map[w] : ~map[w]) & smi_bits_of(w, from, end);
        if (found != 0) return w * 64 + (size_t)__builtin_ctzll((unsigned long long)found);
    }
    return end;
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
    for (size_t i = r->hint; i < r->granules;) {
        size_t begin = smi_bits_next(r->used, i, r->granules, false), most = r->granules - begin;
        if (most < n) break;
        i = smi_bits_next(r->used, begin, begin + n, true);
        if (i == begin + n) return begin;
    }
    return r->granules;
}

static size_t smi_region_dirty(const smi_region *r, size_t at, size_t n) { return smi_bits_count(r->dirty, at, n); }

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

/* As smi_region_give, of granules whose pages have gone elsewhere. */
static void smi_region_give_clean(smi_region *r, size_t at, size_t n) {
    smi_region_give(r, at, n);
    smi_bits_clear(r->dirty, at, n);
    r->dirty_free -= n;
}

/* Gives the dirty free granules of [at, at + n) back to the system; returns how many there were. */
static size_t smi_region_purge(smi_region *r, size_t at, size_t n) {
    size_t purged = 0;
    for (size_t i = at, end; i < at + n && r->dirty_free > 0; i = end) {
        i = smi_bits_next(r->used, i, at + n, false);
        end = smi_bits_next(r->used, i, at + n, true);
        i = smi_bits_next(r->dirty, i, end, true);
        size_t run = smi_bits_next(r->dirty, i, end, false) - i;
        if (run == 0) continue;
        end = i + run;
        char *pages = r->base + i * SMI_GRANULE;
        smi_watch_open(pages, run * SMI_GRANULE); /* they will be somebody else's */
        if (r->source == NULL) smi_os_purge(pages, run * SMI_GRANULE);
        else if (!smi_os_file_purge(pages, run * SMI_GRANULE)) return purged;
        smi_bits_clear(r->dirty, i, run);
        r->dirty_free -= run;
        purged += run;
    }
    return purged;
}

/* Pages that a scope left, of no region: the end of a scope is to be short, so they go when a page is next taken or freed.
 * Nobody but the process holds them. Under smi_span_lock. */
static smi_page *smi_leaving;

static void smi_page_unmap(smi_page *page) {
    const sagemem_source *source = &page->domain->source;
    if (smi_watched) smi_watch_open(page->base, page->bytes);
    if (page->origin == SMI_FROM_SOURCE) source->unmap_fn(source->ctx, page->base, page->bytes);
    else smi_os_release(page->base, page->reserved > 0 ? page->reserved : page->bytes);
}

static uint64_t smi_leaving_unmap(void) {
    uint64_t bytes = 0;
    for (smi_page *page; (page = smi_leaving) != NULL;) {
        smi_leaving = page->next;
        bytes += page->bytes;
        smi_page_unmap(page);
        smi_meta_free(page, sizeof *page);
    }
    return bytes;
}

/* Purges every region whose time has come, or all of them, and then gives wholly free ones up, addresses included: where
 * these are short, something else may need them. Bytes given back. Under smi_span_lock. */
static uint64_t smi_regions_purge(uint64_t now_ms, bool all) {
    uint64_t bytes = smi_leaving_unmap();
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

/* Addresses for a block that will grow where it is; memory as far as it has it now. What is beyond SMI_ASIDE_HUGE asks for
 * huge pages, the last of which is at most 1/64 of the block. First touch takes a third of the time with them, or up to
 * twice where a host must find the memory first; later access at random takes 0.4 to 0.8 of it. */
static const size_t SMI_HUGE_PAGE = (size_t)2 << 20, SMI_ASIDE_HUGE = (size_t)128 << 20;
static char *smi_span_aside(const smi_page *page) {
    bool large = page->reserved > SMI_ASIDE_HUGE;
    char *base = (char *)smi_os_aside(page->reserved, large ? SMI_HUGE_PAGE : (size_t)65536);
    if (base != NULL && large) smi_os_huge_advise(base + SMI_ASIDE_HUGE, page->reserved - SMI_ASIDE_HUGE);
    if (base == NULL || smi_os_aside_open(base, page->bytes)) return base;
    int reason = errno;
    smi_os_release(base, page->reserved);
    errno = reason;
    return NULL;
}

/* A span that the regions cannot give: a mapping of its own, or the heap's own source; charged. */
static char *smi_span_from_outside(smi_domain *d, const smi_page *page, size_t alignment, smi_claim *claim) {
    if (!smi_charge(&d->budget, page->bytes, 0, claim)) return NULL;
    const smi_domain *heap = d->base;
    char *base = NULL;
    if (page->reserved > 0) {
        base = smi_span_aside(page);
    } else if (heap->has_source) {
        if (!smi_os_fails()) base = (char *)heap->source.map_fn(heap->source.ctx, page->bytes, alignment);
        if (base == NULL) errno = ENOMEM;
    } else {
        base = (char *)smi_os_map(page->bytes, alignment);
    }
    if (base == NULL) smi_claim_undo(claim, NULL);
    return base;
}

/* Is a page given back by the end of a scope, or by what runs in it? Then nothing goes to the system: what is due goes with
 * the next page. */
static bool smi_in_scope_end(const smi_domain *d) { return d->closing || d->base->top->closing; }

/* The end of a span of a region goes back to it. Under smi_span_lock. */
static void smi_span_to_region(smi_domain *d, char *base, size_t bytes) {
    const smi_domain *heap = d->base;
    smi_region *r = smi_region_of(base);
    size_t at = (size_t)(base - r->base) / SMI_GRANULE, n = bytes / SMI_GRANULE;
    smi_uncharge(&d->budget, bytes, &smi_process.budget); /* the process holds it as long as it is dirty */
    smi_region_give(r, at, n);
    uint64_t now = smi_os_now_ms();
    bool at_once = heap->purge_delay_ms == (uint32_t)SAGEMEM_PURGE_NOW, later = smi_in_scope_end(d);
    if (at_once && !later) {
        SMI_ATOMIC_SUB(&smi_process.budget.held, (uint64_t)smi_region_purge(r, at, n) * SMI_GRANULE);
    } else {
        /* The earliest wish counts: a region that is busy all the time is purged, too. */
        bool never = heap->purge_delay_ms == (uint32_t)SAGEMEM_PURGE_NEVER;
        uint64_t expires = never ? UINT64_MAX : at_once ? now : now + heap->purge_delay_ms;
        if (r->expires_ms == 0 || expires < r->expires_ms) r->expires_ms = expires;
    }
    if (!later) smi_regions_purge(now, false);
}

/* Sizes are rounded to what the origin deals in. 0: overflow. */
static size_t smi_span_round(const smi_domain *d, size_t bytes) {
    size_t unit = (size_t)SMI_GRANULE;
    if (d->base->has_source && d->base->source.page_size > unit) unit = d->base->source.page_size;
    else if (!d->base->has_source && bytes > SMI_SPAN_MAX) unit = smi_os_page;
    return bytes > SIZE_MAX - unit ? 0 : (bytes + unit - 1) & ~(unit - 1);
}
/* What is set aside, and what of it becomes memory at once: access is changed by whole pages of the system. */
static size_t smi_aside_round(size_t bytes) {
    size_t unit = smi_os_page > (size_t)SMI_GRANULE ? smi_os_page : (size_t)SMI_GRANULE;
    if (bytes > SMI_ASIDE_HUGE && unit < SMI_HUGE_PAGE) unit = SMI_HUGE_PAGE;
    return bytes > SIZE_MAX - unit ? 0 : (bytes + unit - 1) & ~(unit - 1);
}

static void smi_span_free(smi_domain *d, smi_page *page);

enum { SMI_HUGE_ZONE = 64 }; /* checked: bytes in front of the block, filled */
static bool smi_source_gave_huge(const sagemem_source *source);
static bool smi_source_wants_huge(const sagemem_source *source);
static smi_page *smi_source_outer(const smi_domain *heap);

/* The pages of a span, from wherever this heap has them; *claim->met tells a limit from a refusal. Under smi_span_lock. */
static char *smi_span_take(smi_domain *d, smi_page *page, size_t alignment, bool *zeroed, smi_claim *claim) {
    bool region = !d->base->has_source && page->bytes <= SMI_SPAN_MAX && alignment <= SMI_GRANULE && page->reserved == 0;
    char *base = NULL;
    smi_regions_purge(smi_os_now_ms(), false);
    *zeroed = true;
    for (int attempt = 0; attempt < 2; attempt++) {
        claim->met = NULL;
        page->origin = SMI_FROM_REGION;
        if (region) base = smi_span_from_region(d, page->bytes, zeroed, claim);
        if (base == NULL && claim->met == NULL) {
            page->origin = (uint8_t)(d->base->has_source ? SMI_FROM_SOURCE : SMI_FROM_SYSTEM);
            base = smi_span_from_outside(d, page, alignment, claim);
        }
        if (base != NULL || smi_regions_purge(0, true) == 0) break; /* free pages of the cache may make room */
    }
    return base;
}

/* A new page of the domain, in the page map and on no list; `front` bytes of it lie in front of page->start. reserved:
 * addresses to set aside, 0: those of the page. NULL: E_LIMIT or E_NOMEM is set, nothing changed. */
static smi_page *smi_page_create_in(smi_domain *d, smi_kind kind, size_t front, size_t bytes, size_t reserved, size_t alignment,
                                    bool *zeroed, const char *call) {
    size_t rounded = reserved > 0 ? smi_aside_round(bytes) : smi_span_round(d, bytes);
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
    page->reserved = smi_aside_round(reserved);
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
    else if (reserved > 0)
        smi_fail(SAGEMEM_E_NOMEM, smi_os_error(), call,
                 "the system set no %zu bytes of addresses aside (%s); ask for fewer with a smaller stable_max, or raise ulimit -v",
                 reserved, strerror(smi_os_error()));
    else smi_fail_system(call, rounded);
    return NULL;
}
static smi_page *smi_page_create(smi_domain *d, smi_kind kind, size_t front, size_t bytes, size_t alignment, bool *zeroed,
                                 const char *call) {
    return smi_page_create_in(d, kind, front, bytes, 0, alignment, zeroed, call);
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
    bool later = page->origin != SMI_FROM_REGION && page->kind != SMI_META && smi_in_scope_end(d);
    if (page->origin == SMI_FROM_REGION) {
        smi_span_to_region(d, page->base, page->bytes);
    } else if (later) {
        smi_uncharge(&d->budget, page->bytes, &smi_process.budget);
        page->domain = heap; /* whose end empties the list: see smi_heap_clear */
        page->next = smi_leaving;
        smi_leaving = page;
    } else {
        page->domain = heap;
        smi_page_unmap(page);
        smi_uncharge(&d->budget, page->bytes, NULL);
    }
    smi_lock_give(&smi_span_lock);
    if (!later) smi_meta_free(page, sizeof *page);
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

/* While nothing is freed, a scope's total only grows: one word a tag counts blocks and their units of 16 bytes. It is moved to
 * the records (smi_settle) with each new chunk, so that neither half overflows, and before anything is freed. */
SMI_INLINE uint64_t smi_fresh_blocks(uint64_t fresh) { return fresh >> 40; }
SMI_INLINE uint64_t smi_fresh_bytes(uint64_t fresh) { return (fresh << 24 >> 24) * 16 - (fresh >> 40) * 8; }
SMI_INLINE uint64_t smi_fresh_of(const smi_domain *d, sagemem_tag tag) {
    const smi_group *group = SMI_LOAD(&d->fresh) ? SMI_LOAD_ACQUIRE(&d->group[tag / SMI_GROUP]) : NULL;
    return group != NULL ? SMI_LOAD(&group->fresh[tag % SMI_GROUP]) : 0;
}

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

/* A scope's fresh blocks become counted ones. Nothing has been freed: no peak has passed whose composition would have to be
 * saved. A reader looks at the counted ones first and misses what is on its way, but never sees it twice. Owner. */
static void smi_settle(smi_domain *d) {
    uint64_t sum = 0;
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++) {
        smi_group *group = d->group[g];
        for (int i = 0; group != NULL && i < SMI_GROUP; i++) {
            uint64_t fresh = SMI_LOAD(&group->fresh[i]);
            if (fresh == 0) continue;
            SMI_STORE(&group->fresh[i], (uint64_t)0);
            smi_record *r = &group->record[i];
            SMI_STORE_RELEASE(&r->alloc_bytes, SMI_LOAD(&r->alloc_bytes) + smi_fresh_bytes(fresh));
            SMI_STORE_RELEASE(&r->alloc_blocks, SMI_LOAD(&r->alloc_blocks) + smi_fresh_blocks(fresh));
            sum += smi_fresh_bytes(fresh);
        }
    }
    SMI_STORE_RELEASE(&d->sum, SMI_LOAD(&d->sum) + sum);
}
static void smi_heap_quick(smi_domain *h);
/* Something of the scope is freed: from now on every block is counted at once. */
SMI_NOINLINE void smi_fresh_end(smi_domain *d) {
    smi_settle(d);
    SMI_STORE(&d->fresh, false);
    smi_heap_quick(d->base);
}

/* A peak is noticed when the total first falls after it, not at every step of the climb. */
SMI_INLINE void smi_count_free_here(smi_domain *d, smi_record *r, uint64_t bytes, uint64_t blocks) {
    if (SMI_LOAD(&d->exact)) {
        if (SMI_UNLIKELY(d->fresh)) smi_fresh_end(d);
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
static uint64_t smi_sum_of(const smi_domain *d) {
    if (!SMI_LOAD(&d->exact)) return SMI_LOAD_ACQUIRE(&d->seen);
    uint64_t sum = SMI_LOAD_ACQUIRE(&d->sum);
    for (uint32_t t = 0; SMI_LOAD(&d->fresh) && t < SMI_LOAD(&d->groups_end) * SMI_GROUP; t++)
        sum += smi_fresh_bytes(smi_fresh_of(d, (sagemem_tag)t));
    return sum;
}

/* The tag's part of the domain's peak. */
static uint64_t smi_record_at_peak(const smi_domain *d, sagemem_tag tag) {
    const smi_record *r = smi_record_find(d, tag);
    if (r == NULL) return 0;
    bool settled = smi_sum_of(d) <= SMI_LOAD(&d->peak) && SMI_LOAD(&r->epoch) == SMI_LOAD(&d->epoch);
    if (settled) return SMI_LOAD(&r->at_peak);
    if (SMI_LOAD(&d->exact)) return smi_record_bytes(r) + smi_fresh_bytes(smi_fresh_of(d, tag));
    return SMI_LOAD(&r->seen_bytes) + SMI_LOAD(&r->kids_bytes);
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

/* `fresh`: the tag's word of a fresh scope, or NULL; read last, see smi_settle. */
SMI_INLINE void smi_record_sum(const smi_record *r, const smi_u64 *fresh, smi_sums *s) {
    uint64_t gone_bytes = SMI_LOAD_ACQUIRE(&r->free_bytes) + SMI_LOAD_ACQUIRE(&r->remote_bytes);
    uint64_t gone_blocks = SMI_LOAD_ACQUIRE(&r->free_blocks) + SMI_LOAD_ACQUIRE(&r->remote_blocks);
    uint64_t bytes = SMI_LOAD_ACQUIRE(&r->alloc_bytes), blocks = SMI_LOAD_ACQUIRE(&r->alloc_blocks);
    uint64_t more = fresh != NULL ? SMI_LOAD(fresh) : 0;
    bytes += smi_fresh_bytes(more);
    blocks += smi_fresh_blocks(more);
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

/* What a tag has in one domain alone, without its open scopes. Under the heap's lock. */
static void smi_own_sum(const smi_domain *d, sagemem_tag tag, smi_sums *s) {
    const smi_group *group = SMI_LOAD_ACQUIRE(&d->group[tag / SMI_GROUP]);
    if (group == NULL) return;
    smi_record_sum(&group->record[tag % SMI_GROUP], SMI_LOAD(&d->fresh) ? &group->fresh[tag % SMI_GROUP] : NULL, s);
}

/* What a tag has in one domain and its open scopes, children not included. Under the heap's lock. */
static void smi_domain_sum(const smi_domain *d, sagemem_tag tag, smi_sums *s) {
    smi_own_sum(d, tag, s);
    if (d->inner != NULL && d->inner->chain != d) smi_domain_sum(d->inner, tag, s);
    for (const smi_domain *left = d->left; left != NULL; left = left->sibling_next)
        if (left->chain != d) smi_domain_sum(left, tag, s);
}

static uint64_t smi_peak_of(const smi_domain *d) {
    uint64_t sum = smi_sum_of(d), peak = SMI_LOAD(&d->peak); /* in this order: a sum falls after its peak is noted */
    return sum > peak ? sum : peak;
}

/* -- Peaks of ordinary heaps, of heaps with children and of the process: seen when there is a look at them. ---- */

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
    SMI_STORE(&heap->event_bytes, (size_t)0); /* before the walk: the owner may allocate meanwhile, and that counts for the next */
    heap->exact_seen = 0;
    for (uint32_t t = 0; t < SMI_LOAD(&heap->groups_end) * SMI_GROUP; t++) {
        sagemem_tag tag = (sagemem_tag)t;
        smi_record *r = smi_record_find(heap, tag); /* a scope's tags have one too: see smi_records_ready */
        if (r == NULL) continue;
        smi_sums now = {0, 0, 0, 0};
        smi_domain_sum(heap, tag, &now);
        if (exact != NULL) {
            smi_sums inside = {0, 0, 0, 0};
            smi_own_sum(exact, tag, &inside);
            uint64_t counted = at_peak ? smi_record_at_peak(exact, tag) : inside.bytes;
            now.bytes += counted - inside.bytes;
            heap->exact_seen += counted;
        }
        smi_publish_tag(heap, tag, r, now.bytes, now.blocks);
    }
    if (++heap->looks == 0) heap->looks = 1;
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

/* Looking costs a walk of the pages, so it is done when so much may have been allocated, or have gone, since the last look
 * that the peak could otherwise be off by more than the manual says. */
SMI_INLINE bool smi_event_due(const smi_domain *heap) {
    uint64_t held = SMI_LOAD(&heap->budget.held), few = held / 8; /* a small heap's walk is short */
    return SMI_LOAD(&heap->event_bytes) > held / 32 + (few < SMI_LOOK_MOST ? few : (uint64_t)SMI_LOOK_MOST);
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

/* So many bytes may be allocated from now on, or have gone. Under the heap's lock. */
static void smi_event(smi_domain *heap, size_t bytes) {
    SMI_ADD(&heap->event_bytes, bytes);
    if (smi_event_due(heap)) smi_publish(heap, false);
}
/* Whether so much more under a tag could be a new peak of the heap, of one above it, or of the tag in one of them. */
static bool smi_event_rises(const smi_domain *heap, sagemem_tag tag, uint64_t bytes) {
    for (const smi_domain *a = heap; a != NULL; a = a->parent) {
        const smi_record *r = smi_record_find(a, tag);
        if (SMI_LOAD(&a->exact)) continue;
        if (r == NULL || SMI_LOAD(&a->seen) + bytes > SMI_LOAD(&a->peak)) return true;
        if (SMI_LOAD(&r->seen_bytes) + SMI_LOAD(&r->kids_bytes) + bytes > SMI_LOAD(&r->peak)) return true;
    }
    return false;
}

/* A huge block of the heap itself comes, is counted already, or goes: its bytes alone are added to what was last seen, without
 * a walk, unless that might show a peak that never was. Under the heap's lock. */
static void smi_event_huge(smi_domain *heap, smi_page *page, bool comes) {
    bool unseen = page->unseen_at == heap->looks;
    page->unseen_at = 0;
    if (!comes && unseen) return;
    if (comes && smi_event_rises(heap, page->tag, page->size)) {
        page->unseen_at = heap->looks;
        smi_event(heap, page->bytes);
        return;
    }
    smi_record *r = smi_record_of(heap, page->tag);
    if (!comes && SMI_LOAD(&r->seen_bytes) < page->size) { /* never seen: it came in a way that was not looked at */
        smi_publish(heap, false);
        return;
    }
    smi_lock_take(&smi_stats_lock);
    for (smi_domain *a = heap; a != NULL; a = a->parent)
        if (!a->exact) smi_account_settle(a);
    uint64_t bytes = comes ? page->size : 0 - (uint64_t)page->size, blocks = comes ? 1 : ~(uint64_t)0;
    smi_publish_tag(heap, page->tag, r, r->seen_bytes + bytes, r->seen_blocks + blocks);
    smi_lock_give(&smi_stats_lock);
}

/* The same without the lock, which is taken for a look only. Owner. */
static void smi_event_alone(smi_domain *heap, size_t bytes) {
    SMI_ADD(&heap->event_bytes, bytes);
    if (SMI_LIKELY(!smi_event_due(heap))) return;
    smi_lock_take(&heap->lock);
    smi_publish(heap, false);
    smi_lock_give(&heap->lock);
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

/* The next scope whose blocks d counts as well; NULL starts. */
static const smi_domain *smi_domain_inside(const smi_domain *d, const smi_domain *after) {
    if (after == NULL && d->inner != NULL && d->inner->chain == d) return d->inner;
    const smi_domain *left = after == NULL || after == d->inner ? d->left : after->sibling_next;
    while (left != NULL && left->chain != d) left = left->sibling_next;
    return left;
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
    SMI_ASSUME(at != NULL);
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
    return ((fields ^ (uint64_t)(uintptr_t)header ^ salt) * SMI_MIX) >> 40;
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

/* Chunks grow with what there is: a scope doubles up from 64 KiB, or begins with what the last one used, a heap adds an
 * eighth from 16 KiB up. */
static size_t smi_chunk_next_bytes(const smi_domain *d, size_t need) {
    size_t bytes = d->bump ? d->chunk_bytes : d->chunk_bytes / 8;
    size_t least = d->bump ? 4 * (size_t)SMI_GRANULE : (size_t)SMI_GRANULE;
    if (bytes < least) bytes = least;
    if (bytes < need) bytes = need;
    if (d->bump && d->chunk == NULL && bytes < d->base->scope_bytes) bytes = d->base->scope_bytes;
    if (bytes > SMI_CHUNK_MAX && need <= SMI_CHUNK_MAX) bytes = SMI_CHUNK_MAX;
    return (bytes + SMI_GRANULE - 1) & ~(size_t)(SMI_GRANULE - 1);
}

static bool smi_chunk_new(smi_domain *d, uint64_t units, const char *call) {
    size_t need = (size_t)units * 16 + 16, want = smi_chunk_next_bytes(d, need);
    smi_page *page = smi_chunk_spare(d, d->chunk == NULL ? want : need);
    bool zeroed, spare = page != NULL;
    if (page == NULL) page = smi_page_create(d, SMI_CHUNK, 8, want, 1, &zeroed, call);
    if (page == NULL && want > smi_span_round(d, need)) { /* near a limit */
        page = smi_chunk_spare(d, need);
        spare = page != NULL;
        if (page == NULL) page = smi_page_create(d, SMI_CHUNK, 8, need, 1, &zeroed, call);
    }
    if (page == NULL) return false;
    smi_lock_take(&d->base->lock);
    if (d->fresh && d->chunk != NULL) smi_settle(d);
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
    if (d == d->base && !SMI_LOAD(&d->exact)) smi_event_alone(d, usable); /* holes fill without a page changing hands */
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
 * full page has enough of its blocks back (SMI_SLAB_BACK), that a queued one is empty, or that the counters need folding.
 * ----------------------------------------------------------------------------------------------------------- */

enum { SMI_FOLD_AT = 1 << 30, SMI_THREAD_BYTES = 4096 };

/* A full page waits, with free blocks that nobody sees, till it has this part of its blocks back. After a heap was filled,
 * random replacement brings all pages of a class to that point together, and until then each allocation is a new page's: so
 * about that part of the heap is lost. A million blocks of 16 to 128 bytes held 1.23 of what was asked for with 1/8, 1.17 with
 * 1/16, 1.14 with 1/32 and 1.13 with 1/48, of which 1.10 is the rounding to 16 bytes; a smaller part makes pages change hands more
 * often: a page gathers about as much again in the queue. */
static const uint32_t SMI_SLAB_BACK = 48;

static smi_bins smi_no_bins;

SMI_INLINE size_t smi_class_exact(size_t size) { return (size + 15) / 16; } /* up to SMI_EXACT_MAX */
SMI_INLINE unsigned smi_class_of(size_t size) {
    if (SMI_LIKELY(size <= SMI_EXACT_MAX)) return (unsigned)smi_class_exact(size);
    unsigned shift = 63u - (unsigned)__builtin_clzll((unsigned long long)(size - 1)) - 5;
    return 65 + (shift - 5) * 32 + ((unsigned)((size - 1) >> shift) - 32);
}
static size_t smi_class_size(unsigned class_index) {
    if (class_index <= 64) return class_index == 0 ? 16 : (size_t)class_index * 16;
    unsigned step = (class_index - 65) % 32, shift = 5 + (class_index - 65) / 32;
    return (size_t)(33 + step) << shift;
}

SMI_INLINE bool smi_cell_proves(const smi_page *page, const smi_cell *cell) {
    return ((uintptr_t)cell->next ^ cell->proof) == page->key;
}
SMI_INLINE void smi_cell_push(smi_page *page, smi_cell *cell) {
    cell->next = page->cells;
    cell->proof = (uintptr_t)cell->next ^ page->key;
    page->cells = cell;
}
SMI_PEEKS static bool smi_cell_proves_quiet(const smi_page *page, const smi_cell *cell) {
    smi_quiet_begin();
    const volatile smi_cell *c = cell;
    bool proves = ((uintptr_t)c->next ^ c->proof) == page->key;
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
    smi_pair_quiet(cell, (uintptr_t)page->cells, (uintptr_t)page->cells ^ page->key);
    page->cells = cell;
}

/* offset * inverse, modulo 2^64. Of the i-th block that is i * (inverse * block_size - 2^64): with an inverse above
 * 2^64 / block_size, but not by more than 2, at least 16 i and at most 2 * block_size * i. From any other address of 48 bits, in
 * this page or not, it is above that of the last block: so sagemem_free tells foreign pointers, and a wrong page of the cache
 * (the divisibility test of Lemire, Kaser, Kurz 2019, and a range check, in one). */
SMI_INLINE uint64_t smi_slab_place(const smi_page *page, const void *at) {
    return (uint64_t)(int64_t)((intptr_t)at - (intptr_t)page->start) * page->inverse;
}
/* The block's number in its page, or -1: `at`, any address, is not the start of a block that was ever handed out. */
SMI_INLINE int64_t smi_slab_index(const smi_page *page, const void *at) {
    uintptr_t offset = (uintptr_t)at - (uintptr_t)page->start;
    if (offset >= SMI_LOAD(&page->limit) || smi_slab_place(page, at) >= SMI_LOAD(&page->bound)) return -1;
    return (int64_t)(offset / page->block_size);
}

static smi_bins *smi_bins_of(const smi_domain *d, sagemem_tag tag) { return tag < d->bins_count ? d->bins[tag] : &smi_no_bins; }

/* The tag's own bins, made if need be. */
static smi_bins *smi_bins_make(smi_domain *d, sagemem_tag tag) {
    if (tag >= d->bins_count) {
        size_t count = d->bins_count > 0 ? d->bins_count : 16;
        while (count <= tag) count *= 2;
        smi_bins **bins = (smi_bins **)smi_meta_alloc(count * sizeof *bins);
        if (bins == NULL) return NULL;
        for (size_t i = 0; i < count; i++) bins[i] = smi_bins_of(d, (sagemem_tag)i);
        smi_meta_free(d->bins, d->bins_count * sizeof *bins);
        d->bins = bins;
        d->bins_count = count;
    }
    if (d->bins[tag] != &smi_no_bins) return d->bins[tag];
    smi_bins *fresh = (smi_bins *)smi_meta_alloc(sizeof *fresh);
    if (fresh == NULL) return NULL;
    for (int i = 0; i < SMI_CLASSES; i++) fresh->current[i] = &smi_near.nobody;
    return d->bins[tag] = fresh;
}

/* Resets the 32-bit counters so that they never wrap; readers hold the heap's lock. */
static void smi_slab_fold(smi_domain *d, smi_page *page) {
    smi_lock_take(&d->lock);
    uint32_t freed = page->freed;
    SMI_ADD(&page->folded, freed);
    SMI_STORE(&page->total, page->total - freed);
    SMI_STORE(&page->freed, 0);
    page->trigger = SMI_FOLD_AT;
    smi_lock_give(&d->lock);
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
    if (bins->current[page->class_index] == page) bins->current[page->class_index] = &smi_near.nobody;
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
    if (page->state == SMI_SLAB_CURRENT) {
        smi_slab_fold(d, page);
        return;
    }
    if (page->state == SMI_SLAB_FULL) {
        page->state = SMI_SLAB_QUEUED;
        smi_queue_append(d->bins[page->tag], page);
    }
    page->trigger = page->total; /* empty then; in-use blocks that others freed arrive through smi_collect */
    if (page->freed == page->total) smi_slab_emptied(d, page);
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
    SMI_ADD(&page->limit, n * page->block_size); /* read by other threads that look at blocks */
    SMI_STORE(&page->bound, (uint64_t)(from + n) * (page->inverse * page->block_size));
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
    page->inverse = (UINT64_MAX / size + 1) | 1; /* odd: no distance that is not 0 vanishes */
    page->key = (uintptr_t)((smi_secret ^ (uint64_t)(uintptr_t)page) * SMI_MIX) | 1;
    page->cells = &smi_no_cell;
    /* The rest of the page shifts its blocks, or block 0 of every page would fall into the same cache sets. */
    size_t rest = page->bytes - page->capacity * size;
    page->start = page->base + (rest > 0 ? (d->page_count * 64u) % (rest + 1) & ~(size_t)15 : 0);
    page->trigger = SMI_FOLD_AT;
    bins->pages[class_index]++;
    smi_lock_take(&d->lock);
    smi_page_link(d, &r->slabs, page);
    d->slab_bytes += page->bytes;
    smi_lock_give(&d->lock);
    __atomic_store_n(&page->owner, d->fast ? d->owner : 0, __ATOMIC_RELEASE);
    return page;
}

/* A current page with a free block for the class, or NULL with the error set. */
static smi_page *smi_slab_refill(smi_domain *d, sagemem_tag tag, unsigned class_index, const char *call) {
    smi_bins *bins = smi_bins_of(d, tag);
    smi_page *page = bins->current[class_index];
    if (page != &smi_near.nobody) {
        if (page->cells != &smi_no_cell || smi_slab_extend(page)) return page;
    }
    smi_page *next = bins->queue[class_index];
    if (next != NULL) {
        smi_queue_remove(bins, next);
        /* The one after it has waited long enough to be out of the caches. Not NULL: that costs a walk of the page tables. */
        if (bins->queue[class_index] != NULL) __builtin_prefetch(bins->queue[class_index]);
        if (next->state == SMI_SLAB_EMPTY) d->empty_bytes -= next->bytes;
    } else {
        next = smi_slab_new(d, tag, class_index, call);
        if (next == NULL) return NULL;
        bins = d->bins[tag];
        page = bins->current[class_index];
    }
    if (page != &smi_near.nobody) {
        page->state = SMI_SLAB_FULL;
        page->trigger = page->freed + page->capacity / SMI_SLAB_BACK + 1u;
    }
    if (next->freed >= SMI_FOLD_AT / 2) smi_slab_fold(d, next); /* the trigger of a current page lies ahead of `freed` */
    next->trigger = SMI_FOLD_AT;
    next->state = SMI_SLAB_CURRENT;
    smi_event_alone(d, (size_t)(next->capacity - (next->total - next->freed)) * next->block_size);
    bins->current[class_index] = next;
    if (next->cells == &smi_no_cell) smi_slab_extend(next);
    return next;
}

static sagemem_status smi_slab_damaged(smi_domain *d, smi_page *page, const void *cell) {
    page->cells = &smi_no_cell; /* what hung behind the damaged block is leaked: nothing of it can be trusted */
    return smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_alloc",
                     "free block %p (%u bytes, tag '%s', heap '%s') was written to after it was freed, or its neighbour "
                     "overflowed; a SAGEMEM_HEAP_CHECKED heap tells which",
                     cell, page->block_size, sagemem_tag_name(page->tag), d->name);
}

/* A block from a slab page by the long way: watched, shared and zeroing heaps, and after the short path failed. */
static void *smi_slab_alloc(smi_domain *d, size_t size, sagemem_tag tag, const char *call) {
    unsigned class_index = smi_class_of(size);
    smi_page *page = smi_bins_of(d, tag)->current[class_index];
    if (page->cells == &smi_no_cell) page = smi_slab_refill(d, tag, class_index, call);
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
    for (const smi_cell *c = page->cells; c != &smi_no_cell; c = smi_cell_next_quiet(c)) {
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
    for (size_t t = 0; t < d->bins_count; t++) {
        smi_bins *bins = d->bins[t];
        for (int c = 0; bins != &smi_no_bins && c < SMI_CLASSES; c++) {
            smi_page *current = bins->current[c];
            if (current != &smi_near.nobody && current->total == current->freed) {
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

/* The whole pages of the system inside a free block: its word and links lie in front of them, its size behind. */
static void smi_chunk_discard(const smi_domain *d, char *header) {
    uintptr_t first = (uintptr_t)header + 24, end = (uintptr_t)header - d->pre + smi_units(smi_get(header)) * 16 - 8;
    first = (first + smi_os_page - 1) & ~(uintptr_t)(smi_os_page - 1);
    end &= ~(uintptr_t)(smi_os_page - 1);
    const sagemem_source *source = &d->base->source;
    if (first >= end || smi_watched) return;
    if (!d->base->has_source) smi_os_discard((void *)first, end - first);
    else if (source->purge_fn != NULL) source->purge_fn(source->ctx, (void *)first, end - first);
}

/* As much as can go without moving a block: pages that hold none, and the inside of large free blocks. */
static void smi_heap_trim(smi_domain *heap) {
    for (smi_domain *d = heap; d != NULL; d = smi_domain_after(heap, d))
        for (unsigned i = smi_list_of(smi_os_page / 16); i < SMI_LISTS; i++)
            for (char *h = (char *)d->lists[i]; h != NULL && h != SMI_BROKEN; h = smi_link_get(d, h, 0)) {
                if (!smi_word_good(d, h, smi_get(h))) break; /* damaged: told when the block is next needed */
                smi_chunk_discard(d, h);
            }
    smi_domain_trim(heap);
}

/* -- Huge blocks: pages of their own; all that is known about one lies in its smi_page. ------------------------ */

static size_t smi_huge_front(const smi_domain *d) { return smi_checked(d) ? (size_t)SMI_HUGE_ZONE : 0; }
static size_t smi_huge_behind(const smi_domain *d) {
    return smi_watched ? (size_t)SMI_RED_ZONE : d->post;
} /* a tool sees the end */

static void smi_huge_dress(const smi_domain *d, smi_page *page, size_t size) {
    page->size = size;
    if (!smi_checked(d)) return;
    smi_fill_quiet(page->start - SMI_HUGE_ZONE, SMI_FILL_ZONE, SMI_HUGE_ZONE);
    smi_fill_quiet(page->start + size, SMI_FILL_ZONE, page->bytes - size - (size_t)(page->start - page->base));
}

/* A huge block comes, and is counted already; or it goes, whether that is counted yet or not. Under the heap's lock. */
static void smi_huge_event(smi_domain *d, smi_page *page, bool comes) {
    if (d == d->base) smi_event_huge(d, page, comes);
    else smi_event(d->base, page->bytes);
}

/* reserved: bytes of addresses that are set aside for it to grow into, or 0. */
static void *smi_huge_alloc(smi_domain *d, size_t alignment, size_t size, size_t reserved, sagemem_tag tag, smi_site site,
                            bool *zeroed, const char *call) {
    size_t front = smi_huge_front(d), behind = smi_huge_behind(d);
    if (front > 0 && alignment > front) front = alignment;
    if (size > SIZE_MAX / 2 - front - behind || reserved > SIZE_MAX / 2 - behind) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are more than an object can have", size > reserved ? size : reserved);
        return NULL;
    }
    if (reserved > 0) reserved += behind;
    smi_page *page = smi_page_create_in(d, SMI_HUGE, front, front + size + behind, reserved, alignment, zeroed, call);
    if (page == NULL) return NULL;
    page->tag = tag;
    page->file = site.file;
    page->line = site.line;
    smi_huge_dress(d, page, behind > 0 ? size : page->bytes);
    smi_lock_take(&d->base->lock);
    smi_page_link(d, &d->pages, page);
    smi_count_alloc(d, tag, page->size, 1);
    smi_huge_event(d, page, true);
    smi_lock_give(&d->base->lock);
    if (smi_watched) smi_watch_alloc(page->start, page->size, *zeroed);
    return page->start;
}

static void smi_huge_free(smi_domain *d, smi_page *page) {
    if (smi_watched) smi_watch_free(page->start, page->size);
    smi_lock_take(&d->base->lock);
    smi_count_free(d, page->tag, page->size, 1);
    smi_page_unlink(d, &d->pages, page);
    smi_huge_event(d, page, false);
    smi_lock_give(&d->base->lock);
    smi_span_free(d, page);
}

/* It has another size. Under the heap's lock. */
static void smi_huge_recount(smi_domain *d, smi_page *page, size_t size) {
    smi_huge_event(d, page, false);
    if (size >= page->size) smi_count_alloc(d, page->tag, size - page->size, 0);
    else smi_count_free(d, page->tag, page->size - size, 0);
    page->size = size;
    smi_huge_event(d, page, true);
}

/* The granules behind a block's span, if they are free. Under smi_span_lock, as the next three. */
static char *smi_huge_extend(smi_domain *d, smi_page *page, size_t bytes) {
    smi_region *r = smi_region_of(page->base);
    char *end = page->base + page->bytes;
    size_t at = (size_t)(end - r->base) / SMI_GRANULE, n = (bytes - page->bytes) / SMI_GRANULE;
    if (n > r->granules - at || bytes > SMI_SPAN_MAX) return NULL;
    if (smi_bits_next(r->used, at, at + n, true) < at + n) return NULL;
    smi_claim claim;
    uint64_t cached = (uint64_t)smi_region_dirty(r, at, n) * SMI_GRANULE;
    if (!smi_map_prepare(page->base, bytes) || !smi_charge(&d->budget, bytes - page->bytes, cached, &claim)) return NULL;
    if (!smi_os_commit(end, bytes - page->bytes)) {
        smi_claim_undo(&claim, NULL);
        return NULL;
    }
    smi_region_take(r, at, n);
    smi_map_resize(page, bytes, NULL);
    return page->start;
}

static char *smi_huge_cut(smi_domain *d, smi_page *page, size_t bytes) {
    if (bytes < SMI_CHUNK_BLOCK_MAX) return NULL; /* it is better off in a chunk */
    size_t rest = page->bytes - bytes;
    smi_map_resize(page, bytes, smi_map_whole(page) ? smi_obituary(d, page) : NULL);
    smi_span_to_region(d, page->base + bytes, rest);
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

/* A span that becomes too large for a region gets a mapping of its own. Its pages move, so their charge stays. */
static char *smi_huge_lift(smi_domain *d, smi_page *page, size_t bytes) {
    smi_claim claim;
    if (!smi_charge(&d->budget, bytes - page->bytes, 0, &claim)) return NULL;
    char *start = (char *)smi_os_lift(page->base, page->bytes, bytes);
    bool entered = start != NULL && smi_map_prepare(start, 1);
    if (!entered) {
        if (start != NULL) smi_os_lift_undo(start, bytes, page->base, page->bytes);
        smi_claim_undo(&claim, NULL);
        return NULL;
    }
    smi_region *r = smi_region_of(page->base);
    smi_map_set(page->base, page->bytes, smi_obituary(d, page));
    smi_region_give_clean(r, (size_t)(page->base - r->base) / SMI_GRANULE, page->bytes / SMI_GRANULE);
    page->origin = SMI_FROM_SYSTEM;
    page->base = page->start = start;
    smi_map_set(start, 1, page);
    return start;
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
                  : bytes > SMI_SPAN_MAX          ? smi_huge_lift(d, page, bytes)
                  : bytes > page->bytes           ? smi_huge_extend(d, page, bytes)
                                                  : smi_huge_cut(d, page, bytes);
    if (start != NULL) {
        page->bytes = bytes;
        smi_huge_recount(d, page, bytes);
        smi_budget_peak(&d->budget);
    }
    smi_lock_give(&smi_span_lock);
    smi_lock_give(&heap->lock);
    return start;
}

/* Where addresses are set aside, a block never moves: from the system's pages, not in heaps that look for damage. */
static bool smi_huge_may_reserve(const smi_domain *d) {
    return !d->base->has_source && (d->base->flags & (SAGEMEM_HEAP_SYSTEM | SAGEMEM_HEAP_CHECKED)) == 0;
}
static bool smi_huge_holds(const smi_page *page, size_t size) {
    return page != NULL && page->reserved > 0 && size <= page->reserved - smi_huge_behind(page->domain);
}

/* Changes how much of the addresses set aside for a block is memory. NULL: as it was, and the error is set. */
static void *smi_huge_commit(smi_domain *d, smi_page *page, size_t size, const char *call) {
    smi_domain *heap = d->base;
    if (size == 0) size = 1;
    size_t behind = smi_huge_behind(d), bytes = smi_aside_round(size + behind), before = page->bytes;
    smi_claim claim;
    if (bytes > before) {
        if (!smi_charge(&d->budget, bytes - before, 0, &claim)) {
            smi_fail_limit(call, claim.met, bytes - before);
            return NULL;
        }
        if (!smi_os_aside_open(page->base + before, bytes - before)) {
            smi_fail_system(call, bytes - before);
            smi_claim_undo(&claim, NULL);
            return NULL;
        }
        smi_budget_peak(&d->budget);
        if (smi_watched) smi_watch_shut(page->base + before, bytes - before);
    }
    if (smi_watched) smi_watch_resize(page->start, page->size, size);
    smi_lock_take(&heap->lock);
    page->bytes = bytes;
    smi_huge_recount(d, page, behind > 0 ? size : bytes);
    smi_lock_give(&heap->lock);
    if (bytes < before) {
        if (smi_watched) smi_watch_open(page->base + bytes, before - bytes);
        smi_os_aside_shut(page->base + bytes, before - bytes);
        smi_uncharge(&d->budget, before - bytes, NULL);
    }
    return page->start;
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
        bool inside = offset < SMI_LOAD(&page->limit);
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

/* Scopes look at once, so that their peaks are exact: their first short path is shut until they have. */
static void smi_pending_set(smi_domain *heap) {
    /* In one order with smi_collect: either it sees the list, or this sees that the path is open. */
    (void)__atomic_exchange_n(&heap->pending, 1, __ATOMIC_SEQ_CST);
    uintptr_t quick = __atomic_load_n(&heap->quick, __ATOMIC_SEQ_CST);
    while ((quick & SMI_FRESH) != 0 && !SMI_CAS(&heap->quick, &quick, (uintptr_t)0)) { /* it may fail for no reason */
    }
}

static void smi_remote_slab(smi_page *page, smi_cell *cell) {
    uint32_t index = (uint32_t)smi_slab_index(page, cell) + 1;
    uint32_t old = SMI_LOAD(&page->remote), fresh;
    if (smi_watched) smi_watch_free(cell, page->block_size);
    do {
        uintptr_t link = old & 0xFFFF;
        if (SMI_UNLIKELY(smi_watched)) {
            smi_pair_quiet(cell, link, link ^ page->key);
        } else {
            cell->next = (smi_cell *)link;
            cell->proof = link ^ page->key;
        }
        fresh = ((old >> 16) + 1) << 16 | index;
        /* release: the links above are seen by whoever takes the list */
    } while (!SMI_CAS(&page->remote, &old, fresh));
    if (old != 0) return;
    /* The first in the list enters the page. It cannot go before that: the owner takes its list only from there. */
    smi_domain *heap = page->domain;
    smi_page *first = SMI_LOAD(&heap->remote_pages);
    do page->remote_next = first;
    while (!__atomic_compare_exchange_n(&heap->remote_pages, &first, page, true, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
    smi_pending_set(heap);
}

static void smi_remote_block(smi_domain *heap, void *block) {
    void *first = SMI_LOAD(&heap->remote_blocks);
    do smi_link_put(heap->salt, (char *)block, (const char *)first);
    while (!__atomic_compare_exchange_n(&heap->remote_blocks, &first, block, true, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
    smi_pending_set(heap);
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
    /* First, so that whoever adds to a list from now on is not overlooked; what was added before is seen below. */
    if (SMI_LOAD(&heap->pending)) {
        (void)__atomic_exchange_n(&heap->pending, 0, __ATOMIC_SEQ_CST);
        smi_heap_quick(heap); /* see smi_pending_set */
    }
    smi_page *page = __atomic_load_n(&heap->remote_pages, __ATOMIC_SEQ_CST) != NULL
                         ? __atomic_exchange_n(&heap->remote_pages, (smi_page *)NULL, __ATOMIC_ACQ_REL)
                         : NULL;
    while (page != NULL) {
        smi_page *next = page->remote_next; /* read before the page's list is taken: then it may be entered again */
        smi_collect_page(heap, page);
        page = next;
    }
    char *block = __atomic_load_n(&heap->remote_blocks, __ATOMIC_SEQ_CST) != NULL
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
    if (SMI_LOAD(&heap->trim_wanted) && !heap->top->closing) smi_heap_trim(heap);
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

static uint32_t smi_forking; /* threads that are about to fork and want all use locks */
static void smi_use_begin(smi_domain *heap) {
    if (SMI_LOAD(&heap->user) != smi_self()) {
        if (SMI_UNLIKELY(SMI_LOAD(&smi_forking) != 0)) smi_os_sleep_ms(2); /* they look once in a millisecond */
        smi_lock_take(&heap->use_lock);
        SMI_STORE(&heap->user, smi_self());
    }
    heap->uses++;
}
static bool smi_use_try(smi_domain *heap) {
    if (SMI_LOAD(&heap->user) != smi_self() && !smi_lock_try(&heap->use_lock)) return false;
    SMI_STORE(&heap->user, smi_self());
    heap->uses++;
    return true;
}
static void smi_use_end(smi_domain *heap) {
    SMI_ASSUME(heap != NULL);
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

/* Whether a (tag, size) with few bytes in this heap has earned slab pages: by 1 3/4 pages' worth of live blocks in chunks,
 * or by being one of the few that most allocations are for. A hash counts; its collisions only make that come sooner. */
SMI_INLINE smi_rare *smi_rare_of(const smi_domain *d, sagemem_tag tag, size_t size) {
    if (size > SMI_SMALL_MAX) size = SMI_SMALL_MAX; /* the largest takes 8 bytes more in a chunk */
    return &d->rare[((uint32_t)tag * 2654435761u ^ smi_class_of(size) * 40503u) >> 7 & (SMI_RARE - 1)];
}

/* Live blocks count under what they take, as their free will see it; allocations under what was asked for, so that one
 * size earns its pages whatever holes it falls into. */
static void smi_rare_count(smi_domain *d, sagemem_tag tag, size_t asked, size_t taken) {
    smi_rare *live = smi_rare_of(d, tag, taken), *recent = smi_rare_of(d, tag, asked);
    if (live->live < UINT16_MAX) live->live++;
    if (recent->recent < UINT16_MAX) recent->recent++;
    if (++d->rare_total % SMI_RARE_PERIOD != 0) return;
    for (int i = 0; i < SMI_RARE; i++) d->rare[i].recent /= 2;
}

/* A slab heap's small block: from a slab page if the class has one or has earned one, else from a chunk. */
static void *smi_small_alloc(smi_domain *d, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    unsigned class_index = smi_class_of(size);
    size_t in_chunk = size <= 24 ? 24 : ((size + 8 + 15) & ~(size_t)15) - 8, least = smi_slab_least(smi_class_size(class_index));
    if (smi_bins_of(d, tag)->pages[class_index] == 0) {
        const smi_rare *rare = smi_rare_of(d, tag, in_chunk);
        if (rare->live * smi_class_size(class_index) < least + least * 3 / 4 && rare->recent < SMI_RARE_PERIOD / 64) {
            void *block = smi_chunk_alloc(d, 16, size, tag, site, call);
            if (block == NULL) return NULL;
            size_t usable = smi_chunk_size(d, (char *)block - 8, smi_get((char *)block - 8));
            if (usable <= SMI_SMALL_MAX + 8) smi_rare_count(d, tag, in_chunk, usable);
            return block;
        }
    }
    return smi_slab_alloc(d, size, tag, call);
}

static void *smi_domain_alloc_paid(smi_domain *d, size_t alignment, size_t size, size_t reserved, sagemem_tag tag, smi_site site,
                                   bool *zeroed, const char *call) {
    smi_domain *heap = d->base;
    *zeroed = false;
    if (smi_os_fails()) {
        smi_fail_system(call, size);
        return NULL;
    }
    if (smi_pending(heap)) smi_collect(heap);
    else if (d->fresh && SMI_LOAD(&heap->quick) == 0) smi_heap_quick(heap); /* shut for what has been collected since */
    if (size >= 65536 && alignment < 64) alignment = 64;
    bool small = d->slab && size <= SMI_SMALL_MAX && alignment <= 16;
    if (!smi_records_ready(d, tag)) return NULL;
    if (reserved > 0) return smi_huge_alloc(d, alignment, size, reserved, tag, site, zeroed, call);
    if ((heap->flags & SAGEMEM_HEAP_SYSTEM) != 0) return smi_system_alloc(d, alignment, size, tag, site, call);
    if (small) return smi_small_alloc(d, size, tag, site, call);
    if (size <= SMI_CHUNK_BLOCK_MAX && alignment <= SMI_CHUNK_BLOCK_MAX / 4)
        return smi_chunk_alloc(d, alignment, size, tag, site, call);
    return smi_huge_alloc(d, alignment, size, 0, tag, site, zeroed, call);
}

/* reserved: bytes of addresses that the block is to grow into without moving; 0: it is an ordinary one. A heap that cannot
 * do that takes them all as memory at once. */
static void *smi_domain_alloc_in(smi_domain *d, size_t alignment, size_t size, size_t reserved, sagemem_tag tag, smi_site site,
                                 bool *zeroed, const char *call) {
    if (d == d->base) smi_outside_grows(d); /* an object of the heap takes more while a scope is open */
    if (reserved > 0 && !smi_huge_may_reserve(d)) {
        size = reserved;
        reserved = 0;
    }
    smi_mine.paying = &d->budget;
    void *block = smi_domain_alloc_paid(d, alignment, size, reserved, tag, site, zeroed, call);
    smi_mine.paying = NULL;
    return block;
}
static void *smi_domain_alloc(smi_domain *d, size_t alignment, size_t size, sagemem_tag tag, smi_site site, bool *zeroed,
                              const char *call) {
    return smi_domain_alloc_in(d, alignment, size, 0, tag, site, zeroed, call);
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

/* One more attempt at making room after a failure; *step counts them. False: nothing is left to try. No lock is held, but for the
 * use lock of a shared heap where the allocation is part of a call on an object of it. */
static bool smi_reclaim(smi_domain *heap, uint32_t *step, uint64_t wanted) {
    sagemem_status status = smi_mine.error.status;
    if ((status != SAGEMEM_E_LIMIT && status != SAGEMEM_E_NOMEM) || smi_mine.reclaiming) return false;
    if (SMI_UNLIKELY(smi_mine.fails_now)) { /* a failure on purpose is to be seen */
        smi_mine.fails_now = false;
        return false;
    }
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

static bool smi_tag_known(sagemem_tag tag, const char *call) {
    if (SMI_LIKELY(tag <= SAGEMEM_TAG_MAX)) return true;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named", tag,
             SAGEMEM_TAG_USER_MAX);
    return false;
}

/* What an allocation wants besides its size. */
typedef struct smi_wish {
    size_t reserved; /* see smi_domain_alloc_in */
    bool zero;
    bool tentative; /* the caller has something else to try: a failure asks no reclaimer and never aborts */
} smi_wish;

/* Everything that the short paths do not do. The block comes from domain `into` of the heap, NULL: its innermost scope. */
static void *smi_alloc_wish(sagemem_heap *heap, smi_domain *into, size_t alignment, size_t size, sagemem_tag tag, smi_site site,
                            smi_wish wish, const char *call) {
    if (!smi_tag_known(tag, call)) return NULL;
    for (uint32_t step = 0;;) {
        smi_domain *entered = smi_enter(heap, call);
        if (entered == NULL) return NULL;
        bool zeroed, abort_on_nomem = (entered->flags & SAGEMEM_HEAP_ABORT_ON_NOMEM) != 0;
        bool zero = wish.zero || (entered->flags & SAGEMEM_HEAP_ZERO) != 0;
        smi_domain *d = into != NULL ? into : entered->top;
        void *block = smi_domain_alloc_in(d, alignment, size, wish.reserved, tag, site, &zeroed, call);
        if (block != NULL && zero && !zeroed)
            memset(block, 0, (entered->flags & SAGEMEM_HEAP_ZERO) != 0 ? sagemem_size(block) : size);
        smi_leave(entered);
        if (block != NULL) {
            smi_pressure_look();
            return block;
        }
        if (wish.tentative) return NULL;
        if (smi_reclaim(entered, &step, size)) continue;
        smi_fail_for(size, tag);
        if (abort_on_nomem && smi_mine.error.status != SAGEMEM_E_ARGUMENT) {
            smi_log(SAGEMEM_LOG_ERROR, "%s: %zu bytes for tag '%s': %s", call, size, sagemem_tag_name(tag), smi_mine.error.message);
            abort();
        }
        return NULL;
    }
}

SMI_NOINLINE void *smi_alloc_slow(sagemem_heap *heap, smi_domain *into, size_t alignment, size_t size, sagemem_tag tag,
                                  smi_site site, bool zero, const char *call) {
    smi_wish wish = {0, zero, false};
    return smi_alloc_wish(heap, into, alignment, size, tag, site, wish, call);
}

/* A block of a class from the current slab page of a heap whose short paths are open. NULL: the long way. */
SMI_INLINE void *smi_alloc_class(sagemem_heap *heap, size_t class_index, sagemem_tag tag) {
    size_t t = tag;
    if (SMI_UNLIKELY(t >= heap->bins_count)) return NULL;
    smi_page *page = heap->bins[t]->current[class_index];
    smi_cell *cell = page->cells;
    if (SMI_UNLIKELY(!smi_cell_proves(page, cell))) return NULL;
    page->cells = cell->next;
    cell->proof = 0;
    SMI_ADD(&page->total, 1);
    return cell;
}

static const uint64_t SMI_FRESH_BLOCK = (uint64_t)1 << 40;
/* Of a small block in a chunk without dressing: its word and itself, at least four words, see smi_units_min. */
SMI_INLINE size_t smi_bump_units(size_t size) { return (size + 8 + 15) / 16 + (size < 9); }

/* A block at the end of a fresh scope's chunk, where there is room; one counter. */
SMI_INLINE void *smi_fresh_take(smi_domain *d, smi_group *group, size_t units, sagemem_tag tag) {
    char *header = d->bump_at;
    d->bump_at = header + units * 16;
    SMI_STORE((smi_u64 *)(void *)header, smi_word(d, header, units, tag, SMI_LIVE));
    SMI_ADD(&group->fresh[tag % SMI_GROUP], SMI_FRESH_BLOCK + units);
    return header + 8;
}

/* The short path of a fresh scope. NULL: the long way. */
SMI_INLINE void *smi_alloc_fresh(smi_domain *d, size_t size, sagemem_tag tag) {
    size_t t = tag, units = smi_bump_units(size);
    if (SMI_UNLIKELY(size >= 65536 || t > SAGEMEM_TAG_MAX)) return NULL; /* from 64 KiB on blocks are aligned */
    smi_group *group = SMI_LOAD(&d->group[t / SMI_GROUP]);
    if (SMI_UNLIKELY(group == NULL || (uintptr_t)d->bump_at + units * 16 > (uintptr_t)d->bump_end)) return NULL;
    return smi_fresh_take(d, group, units, tag);
}

/* The first of the short paths: the thread's own heap; a block of one of the sizes that need no search for their class, or of a
 * fresh scope. NULL: the others. */
SMI_INLINE void *smi_alloc_fast(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (SMI_UNLIKELY(heap == NULL)) return NULL;
    if (SMI_LIKELY(smi_is_self(SMI_LOAD(&heap->quick))))
        return SMI_LIKELY(size <= SMI_EXACT_MAX) ? smi_alloc_class(heap, smi_class_exact(size), tag) : NULL;
    return smi_is_self(SMI_LOAD(&heap->quick) - SMI_FRESH) ? smi_alloc_fresh(heap->top, size, tag) : NULL;
}

/* The same for the larger ones. */
SMI_INLINE void *smi_alloc_larger(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (size - SMI_EXACT_MAX > SMI_SMALL_MAX - SMI_EXACT_MAX) return NULL;
    if (heap == NULL) heap = smi_mine.heap;
    if (SMI_UNLIKELY(heap == NULL || !smi_is_self(SMI_LOAD(&heap->quick)))) return NULL;
    return smi_alloc_class(heap, smi_class_of(size), tag);
}

enum { SMI_GAP_MOST = 80 };
/* What lies in front of a block in a chunk that is to be aligned to 64: 0, or enough for a block. */
SMI_INLINE size_t smi_bump_gap(const char *header) {
    size_t gap = (0 - (uintptr_t)(header + 8)) % 64;
    return gap == 16 ? (size_t)SMI_GAP_MOST : gap;
}

/* A fresh scope's first block, its first with a tag, or one that is to be aligned. NULL: the long way. */
static void *smi_alloc_first(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (heap == NULL || !smi_is_self(SMI_LOAD(&heap->quick) - SMI_FRESH)) return NULL;
    smi_domain *d = heap->top;
    if (size > SMI_CHUNK_BLOCK_MAX || tag > SAGEMEM_TAG_MAX) return NULL;
    if (d->group[tag / SMI_GROUP] == NULL && !smi_records_ready(d, tag)) return NULL; /* whoever has it, those above have it, too */
    size_t units = smi_bump_units(size);
    if (d->chunk == NULL) {
        smi_mine.paying = &d->budget;
        bool made = smi_chunk_new(d, units + SMI_GAP_MOST / 16, "sagemem_alloc");
        smi_mine.paying = NULL;
        if (!made) return NULL;
    }
    char *lead = d->bump_at;
    size_t gap = size >= 65536 ? smi_bump_gap(lead) : 0;
    if ((size_t)(d->bump_end - lead) < gap + units * 16) return NULL;
    if (gap > 0) { /* a free block that is on no list: nobody will look for it before the scope ends */
        smi_set(lead, smi_word(d, lead, gap / 16, 0, SMI_APART));
        smi_link_set(d, lead, 0, NULL);
        smi_link_set(d, lead, 1, NULL);
    }
    d->bump_at = lead + gap;
    return smi_fresh_take(d, d->group[tag / SMI_GROUP], units, tag);
}

/* The short path of a scope of which something has been freed: the same with all counters. NULL: the long way. */
SMI_INLINE void *smi_alloc_bump(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (SMI_UNLIKELY(heap == NULL || SMI_LOAD(&heap->owner) != smi_self())) return NULL; /* it may be no heap at all */
    smi_domain *d = heap->top;
    if (SMI_UNLIKELY(SMI_LOAD(&d->quick_bump) != smi_self() || d->fresh || size > SMI_CHUNK_BLOCK_MAX / 8 ||
                     tag > SAGEMEM_TAG_MAX || smi_pending(heap)))
        return NULL;
    smi_group *group = SMI_LOAD(&d->group[tag / SMI_GROUP]);
    size_t units = smi_bump_units(size);
    char *header = d->bump_at;
    if (SMI_UNLIKELY(group == NULL || (size_t)(d->bump_end - header) < units * 16 ||
                     (units <= SMI_UNITS_APART && d->lists[units] != NULL)))
        return NULL;
    d->bump_at = header + units * 16;
    SMI_STORE((smi_u64 *)(void *)header, smi_word(d, header, units, tag, SMI_LIVE));
    smi_record *r = &group->record[tag % SMI_GROUP];
    smi_record_touch(d, r, smi_record_bytes(r)); /* a scope is exact */
    SMI_ADD(&d->sum, units * 16 - 8);
    SMI_ADD(&r->alloc_bytes, units * 16 - 8);
    SMI_ADD(&r->alloc_blocks, 1);
    return header + 8;
}

/* The class's current page is exhausted: the next one. NULL: the long way, which tries again and says what is wrong. */
static void *smi_alloc_refill(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    if (heap == NULL) heap = smi_mine.heap;
    if (heap == NULL || !smi_is_self(SMI_LOAD(&heap->quick)) || size > SMI_SMALL_MAX || tag >= heap->bins_count) return NULL;
    unsigned class_index = smi_class_of(size);
    smi_bins *bins = heap->bins[tag];
    if (bins->pages[class_index] == 0) return NULL; /* it may not have earned any */
    if (smi_pending(heap)) smi_collect(heap);
    if (bins->current[class_index]->cells == &smi_no_cell) {
        smi_mine.paying = &heap->budget;
        smi_page *page = smi_slab_refill(heap, tag, class_index, "sagemem_alloc");
        smi_mine.paying = NULL;
        if (page == NULL) return NULL;
    }
    void *block = smi_alloc_class(heap, class_index, tag);
    smi_pressure_look();
    return block;
}

/* All short paths but the first. NULL: the long way. */
SMI_INLINE void *smi_alloc_short(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *block = smi_alloc_first(heap, size, tag);
    if (block == NULL) block = smi_alloc_larger(heap, size, tag);
    if (block == NULL) block = smi_alloc_refill(heap, size, tag);
    return block != NULL ? block : smi_alloc_bump(heap, size, tag);
}

/* Apart, so that the first short path has no registers to save for it. */
SMI_NOINLINE void *smi_alloc_else(sagemem_heap *heap, size_t size, sagemem_tag tag, smi_site site, bool zero, const char *call) {
    void *block = smi_alloc_short(heap, size, tag);
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

static const smi_site smi_nowhere = {NULL, 0};

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
        word = smi_get(ref->header); /* its neighbour may have changed since ref was taken */
        if (!d->exact && ref->size >= SMI_GRANULE) smi_event_alone(d, ref->size); /* as much as a page */
        if (d->rare != NULL && ref->size <= SMI_SMALL_MAX + 8) {
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
            smi_fault(damaged ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status, call, "%s (this call: %s:%d)", text, site.file,
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

/* A slab block of the calling thread's; false: it is anything else. */
SMI_INLINE bool smi_free_slab(smi_page *page, void *block) {
    if (SMI_UNLIKELY(!smi_is_self(SMI_LOAD(&page->owner)) || smi_slab_place(page, block) >= page->bound)) return false;
    smi_cell *cell = (smi_cell *)block;
    if (SMI_UNLIKELY(smi_cell_proves(page, cell))) return false;
    smi_cell_push(page, cell);
    uint32_t freed = page->freed + 1;
    SMI_STORE(&page->freed, freed);
    if (SMI_UNLIKELY(freed == page->trigger)) smi_slab_event(page->domain, page);
    return true;
}

/* A slab block of another thread's heap; false: the long way, which finds out what it is. */
SMI_INLINE bool smi_free_others(smi_page *page, void *block) {
    uintptr_t owner = SMI_LOAD(&page->owner);
    if (owner == 0 || owner == smi_self() || smi_slab_index(page, block) < 0 || smi_cell_proves(page, (smi_cell *)block))
        return false;
    smi_remote_slab(page, (smi_cell *)block);
    return true;
}

/* Apart, so that the short path has no registers to save for it. */
SMI_NOINLINE void smi_free_else(void *block, smi_site site, const char *call) {
    smi_page *page = smi_lookup(block);
    if (page != NULL && page->kind == SMI_CHUNK && smi_free_bump(page, block)) return;
    if (page != NULL && page->kind == SMI_SLAB) {
        if (smi_free_slab(page, block)) return; /* another page had its place in the cache */
        if (smi_free_others(page, block)) return;
    }
    smi_free_slow(block, site, call);
}
SMI_NOINLINE void smi_free_plain(void *block) { smi_free_else(block, smi_nowhere, "sagemem_free"); }

static void smi_free(void *block, smi_site site, const char *call) {
    if (!smi_free_slab(smi_lookup_near(block), block)) smi_free_else(block, site, call);
}

/* -- Objects: what the layers below make from a heap. Each belongs to the scope that is open when it is made, or to the
 *    heap; all it ever takes comes from there; and it ends with it, newest first. A deferred clean-up is one, too. The
 *    structures lie in the library's own memory, which stays readable: a call on an object that has ended finds it so. */

typedef struct smi_object_kind {
    const char *name;                   /* "pool" */
    size_t size;                        /* of the structure that begins with an smi_object */
    void (*end_fn)(smi_object *object); /* gives back all that the object has, but its structure; runs once */
    size_t (*check_fn)(const smi_object *object, const char *call); /* walks it: the number damaged, each to smi_damage; or NULL */
} smi_object_kind;

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
    smi_lock_take(&h->lock); /* reports go through the list from any thread */
    o->older = d->objects;
    if (o->older != NULL) o->older->newer = o;
    d->objects = o;
    smi_lock_give(&h->lock);
    return o;
}

/* What messages and reports call it. */
SMI_FOR_LAYERS const char *smi_object_name(const smi_object *o) { return o->name != NULL ? o->name : o->kind->name; }

/* Zeroed memory of the library's own for an object, paid for as its blocks are. NULL: the error is set. Freed by smi_meta_free. */
SMI_FOR_LAYERS void *smi_object_meta(const smi_object *o, size_t size, const char *call) {
    void *at = NULL;
    smi_mine.paying = &o->domain->budget;
    if (smi_os_fails()) smi_fail_system(call, size);
    else at = smi_meta_alloc(size);
    smi_mine.paying = NULL;
    return at;
}

/* It is an object of that kind and has not ended, whoever asks. False: the fault handler was called. */
SMI_FOR_LAYERS bool smi_object_alive(const void *object, const smi_object_kind *kind, const char *call) {
    const smi_object *o = (const smi_object *)object;
    const smi_page *page = smi_lookup(o);
    if (page == NULL || page->kind != SMI_META || ((uintptr_t)o & 63) != 0 || o->kind != kind) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call, "%p is no %s; pass what the call that makes one returned", object,
                  kind->name);
        return false;
    }
    if (SMI_LIKELY(o->domain != &smi_process)) return true;
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call, "the %s%s%s has ended, or the scope or heap that it was made in", kind->name,
              o->name != NULL ? " " : "", o->name != NULL ? o->name : "");
    return false;
}

/* The object is as its heap's owner left it, and the calling thread may use it now; a shared heap is locked. False: the
 * fault handler was called. */
SMI_FOR_LAYERS bool smi_object_enter(const void *object, const smi_object_kind *kind, const char *call) {
    const smi_object *o = (const smi_object *)object;
    if (!smi_object_alive(o, kind, call)) return false;
    smi_domain *heap = o->domain->base;
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
    if (SMI_LIKELY(o->domain->base == heap)) return true;
    smi_use_end(heap); /* another thread ended it while this one waited */
    return smi_object_alive(o, kind, call);
}
static void smi_object_leave(const smi_object *o) { smi_leave(o->domain->base); }

/* The same for calls that would pull the rug from under a call that is under way: a sink must not write to its own writer. */
SMI_FOR_LAYERS bool smi_object_enter_alone(const void *object, const smi_object_kind *kind, const char *call) {
    const smi_object *o = (const smi_object *)object;
    if (!smi_object_enter(o, kind, call)) return false;
    if (SMI_LIKELY(!o->busy)) return true;
    smi_object_leave(o);
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
              "the %s is waiting for the function that makes this call; let that return first", kind->name);
    return false;
}

enum { SMI_OBJECTS_ENDED = 64 };
static smi_object *smi_objects_ended[SMI_OBJECTS_ENDED]; /* structures, the oldest at `at`; under smi_layers_lock */
static uint32_t smi_objects_ended_at;

/* A structure serves again when 64 more objects have ended: till then a late call finds that its object has. */
static void smi_object_retire(smi_object *o) {
    smi_lock_take(&smi_layers_lock);
    smi_object **place = &smi_objects_ended[smi_objects_ended_at++ % SMI_OBJECTS_ENDED], *oldest = *place;
    *place = o;
    smi_lock_give(&smi_layers_lock);
    if (oldest != NULL) smi_meta_free(oldest, oldest->kind->size);
}

/* Ends an object: it gives back what it has, and leaves its list. Between enter and leave, since a shared heap's list is changed;
 * but the object tells no more what its heap is: keep that before, and smi_leave it. */
static void smi_object_end(smi_object *o) {
    smi_domain *d = o->domain;
    if (!o->ending) { /* else a fault handler jumped out of its end */
        smi_lock_take(&d->base->lock);
        if (o->newer != NULL) o->newer->older = o->older;
        else d->objects = o->older;
        if (o->older != NULL) o->older->newer = o->newer;
        smi_lock_give(&d->base->lock);
    }
    o->ending = true;
    o->quick = 0;
    o->kind->end_fn(o);
    o->domain = &smi_process;
    if (o->kind->check_fn != NULL) smi_object_retire(o);
    else smi_meta_free(o, o->kind->size); /* a clean-up: nobody has its address */
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
    SMI_ADD(&((smi_object *)(uintptr_t)o)->mapped, now - before);
}

/* The object has a file open, which reports list by that name as long as the object is in its list; NULL: not any more. */
SMI_FOR_LAYERS void smi_object_file(smi_object *o, const char *name) {
    smi_lock_take(&o->domain->base->lock);
    o->file = name;
    smi_lock_give(&o->domain->base->lock);
}
SMI_FOR_LAYERS void smi_object_buffered(smi_object *o, uint64_t bytes) { SMI_STORE(&o->buffered, bytes); }

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

/* A scope's pages leave it: chunks are kept for the next scope up to a bound, the rest goes. The next one's first chunk is to
 * hold as much as this one needed. */
static void smi_scope_drop_pages(smi_domain *scope) {
    smi_domain *heap = scope->base;
    smi_page *page = scope->pages;
    if (scope == heap) smi_lock_take(&heap->lock); /* else no reader finds it any more */
    scope->pages = NULL;
    for (smi_page *p = page; p != NULL; p = p->domain_next) heap->page_count--;
    if (scope == heap) smi_lock_give(&heap->lock);
    if (scope != heap) heap->scope_bytes = scope->chunk_bytes - (size_t)(scope->bump_end - scope->bump_at);
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
    if (scope->fresh) smi_settle(scope);
    SMI_STORE(&scope->fresh, false);
    for (uint32_t g = 0; g < SMI_LOAD(&scope->groups_end); g++) {
        const smi_group *group = scope->group[g];
        for (int i = 0; group != NULL && i < SMI_GROUP; i++) {
            const smi_record *r = &group->record[i];
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
    bool fresh = owner != 0 && h->top->fresh && !SMI_LOAD(&h->pending); /* else it looks first: see smi_pending_set */
    __atomic_store_n(&h->quick, h->top == h ? owner : fresh ? owner | SMI_FRESH : 0, __ATOMIC_SEQ_CST);
    if (fresh && __atomic_load_n(&h->pending, __ATOMIC_SEQ_CST)) SMI_STORE(&h->quick, (uintptr_t)0);
    for (smi_domain *scope = h->top; scope != h; scope = scope->outer)
        SMI_STORE(&scope->quick_bump, scope->chain == NULL ? owner : 0);
}

static smi_past_scope smi_past_worse(const smi_past_scope *a, const smi_past_scope *b) {
    smi_past_scope worse = b->used_peak > a->used_peak ? *b : *a;
    worse.count = a->count + b->count;
    return worse;
}

/* Remembers a scope that ends. Under the heap's lock. */
static void smi_past_add(smi_past *past, const smi_domain *scope) {
    smi_past_scope now = {scope->name,        scope->id, smi_peak_of(scope), SMI_LOAD(&scope->budget.peak), scope->began,
                          scope->ended_after, 1};
    smi_past_scope *last = past->slots > 0 ? &past->slot[past->slots - 1] : NULL;
    if (last != NULL && last->count < past->stride) {
        *last = smi_past_worse(last, &now);
        return;
    }
    if (past->slots == SMI_PAST_SLOTS) {
        for (uint32_t i = 0; i < SMI_PAST_SLOTS / 2; i++)
            past->slot[i] = smi_past_worse(&past->slot[2 * i], &past->slot[2 * i + 1]);
        past->slots = SMI_PAST_SLOTS / 2;
        past->stride *= 2;
    }
    past->slot[past->slots++] = now;
}

/* Ends the innermost scope of a heap; E_CORRUPT: it had damaged blocks, and has ended all the same. */
static sagemem_status smi_scope_end(smi_domain *heap) {
    sagemem_status status = SAGEMEM_OK;
    smi_domain *scope = heap->top;
    scope->closing = true;
    smi_objects_end(scope);
    smi_collect(heap);
    if (smi_checked(scope) && smi_domain_check(scope, "sagemem_scope_end") > 0) status = SAGEMEM_E_CORRUPT;
    scope->ending = true;
    scope->quarantine_first = scope->quarantine_last = NULL;
    scope->ended_after = smi_os_ticks() - scope->began;
    smi_domain_forget(scope); /* system blocks are counted as they go, so before what is left is folded */
    smi_lock_take(&heap->lock);
    smi_publish_end(heap, scope);
    smi_past_add(heap->past, scope);
    smi_scope_fold(scope);
    scope->outer->inner = NULL;
    heap->top = scope->outer;
    smi_heap_quick(heap);
    SMI_SUB(&heap->scopes, 1);
    smi_domain *old = heap->ended;
    heap->ended = scope;
    if (heap->top == heap && heap->exact_seen > 0) smi_event(heap, (size_t)heap->exact_seen); /* what was seen of it is gone */
    smi_lock_give(&heap->lock);
    smi_scope_drop_pages(scope);
    if (old != NULL && heap->unused != NULL) smi_domain_dispose(old);
    else if (old != NULL) heap->unused = old;
    return status;
}

/* Most records of an ended scope have counted what was allocated, and nothing else has happened to them. */
SMI_INLINE void smi_record_forget(smi_record *r) {
    if (r->epoch != 0) memset(r, 0, sizeof *r);
    else r->alloc_bytes = r->alloc_blocks = 0;
}

/* A scope structure, empty, every list and record as new. */
static smi_domain *smi_scope_fresh(smi_domain *heap) {
    smi_domain *s = heap->unused;
    heap->unused = NULL;
    if (s == NULL) return (smi_domain *)smi_meta_alloc(sizeof *s);
    for (uint32_t g = 0; g < SMI_LOAD(&s->groups_end); g++) {
        smi_group *group = s->group[g];
        for (int i = 0; group != NULL && i < SMI_GROUP; i++)
            if (group->record[i].alloc_blocks != 0) smi_record_forget(&group->record[i]);
    }
    if ((s->list_map[0] | s->list_map[1]) != 0) memset(s->lists, 0, sizeof s->lists);
    memset(s, 0, offsetof(struct sagemem_heap, lists));
    return s;
}

/* A heap remembers its scopes from the first on. False: the error is set. */
static bool smi_past_ready(smi_domain *heap) {
    if (SMI_LIKELY(heap->past != NULL)) return true;
    smi_past *past = (smi_past *)smi_meta_alloc(sizeof *past);
    if (past == NULL) return false;
    past->stride = 1;
    smi_lock_take(&heap->lock);
    heap->past = past;
    smi_lock_give(&heap->lock);
    return true;
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
    smi_domain *s = name != NULL && !fails && smi_past_ready(h) ? smi_scope_fresh(h) : NULL;
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
    s->fresh = h->fast && s->chain == NULL;
    s->top = s;
    s->budget.up = &outer->budget;
    s->salt = smi_scope_salt(h, ++h->scopes_begun); /* so that what an ended scope left behind is no block of this one */
    s->epoch = 1;
    s->began = smi_os_ticks();
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
    for (size_t t = 0; t < d->bins_count; t++)
        if (d->bins[t] != &smi_no_bins) smi_meta_free(d->bins[t], sizeof(smi_bins));
    smi_meta_free(d->bins, d->bins_count * sizeof *d->bins);
    smi_meta_free(d->rare, SMI_RARE * sizeof *d->rare);
    smi_meta_free(d->past, sizeof *d->past);
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
    h->salt = ((smi_salts += SMI_MIX) ^ smi_secret ^ (uintptr_t)h) * SMI_MIX;
    h->epoch = 1;
    h->looks = 1;
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

/* The heap's owner changes: nobody takes the short paths of its objects, till the new one has been let in. */
static void smi_objects_shut(smi_domain *outermost) {
    for (smi_domain *d = outermost; d != NULL; d = d->inner)
        for (smi_object *o = d->objects; o != NULL; o = o->older) SMI_STORE(&o->quick, (uintptr_t)0);
}

/* The pages' own copy of the owner, for the short path of free. */
static void smi_heap_set_owner(smi_domain *h, uintptr_t owner) {
    SMI_STORE_RELEASE(&h->owner, owner);
    smi_heap_quick(h);
    smi_objects_shut(h);
    for (smi_domain *d = h->left; d != NULL; d = d->sibling_next) smi_objects_shut(d);
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
    for (size_t t = 0; t < h->bins_count; t++)
        for (int c = 0; h->bins[t] != &smi_no_bins && c < SMI_CLASSES; c++) {
            h->bins[t]->current[c] = &smi_near.nobody;
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
    h->quarantine_first = h->quarantine_last = NULL;
    h->quarantine_bytes = h->empty_bytes = h->chunk_bytes = h->slab_bytes = 0;
    SMI_STORE(&h->header_bytes, 0);
    h->salt = (h->salt ^ ++h->scopes_begun) * SMI_MIX; /* what lies in the pages now is no block of it any more */
    smi_domain_trim(h);
    smi_lock_take(&smi_span_lock);
    smi_regions_purge(smi_os_now_ms(), false); /* also what its scopes left: of a source, it must not outlive the heap */
    smi_lock_give(&smi_span_lock);
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

/* smi_registry_lock, which the list of heaps is under, and the use locks of all shared heaps, which come before it: so none of
 * these is waited for while it is held. */
static void smi_fork_uses(void) {
    for (SMI_ATOMIC_ADD(&smi_forking, 1);; smi_os_sleep_ms(1)) {
        smi_lock_take(&smi_registry_lock);
        smi_domain *h = smi_heap_after(&smi_process, NULL), *met;
        while (h != NULL && (SMI_LOAD(&h->owner) != SMI_ANY || smi_use_try(h))) h = smi_heap_after(&smi_process, h);
        if (h == NULL) break;
        met = h;
        for (h = smi_heap_after(&smi_process, NULL); h != met; h = smi_heap_after(&smi_process, h)) {
            SMI_ASSUME(h != NULL); /* met comes before the end */
            if (SMI_LOAD(&h->owner) == SMI_ANY) smi_use_end(h);
        }
        smi_lock_give(&smi_registry_lock);
    }
    SMI_ATOMIC_SUB(&smi_forking, 1);
}

static void smi_fork_locks(bool take) {
    smi_lock *last[] = {&smi_stats_lock, &smi_system_lock, &smi_span_lock, &smi_names_lock, &smi_meta_lock, &smi_layers_lock};
    if (take) smi_fork_uses();
    for (smi_domain *h = smi_heap_after(&smi_process, NULL); h != NULL; h = smi_heap_after(&smi_process, h)) {
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
    smi_lock *locks[] = {&smi_registry_lock, &smi_stats_lock, &smi_system_lock, &smi_span_lock,
                         &smi_names_lock,    &smi_meta_lock,  &smi_layers_lock};
    for (size_t i = 0; i < sizeof locks / sizeof locks[0]; i++) smi_lock_init(locks[i]);
    smi_os_forks++;
    SMI_STORE(&smi_forking, 0u);
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
    smi_os_ticks_begin();
    smi_lock_init(&smi_process.lock);
    smi_process.base = smi_process.top = &smi_process;
    smi_process.name = "process";
    smi_process.epoch = 1;
    smi_process.magic = SMI_MAGIC ^ (uintptr_t)&smi_process;
    smi_process.bump = true;
    smi_near.nobody.cells = &smi_no_cell;
    smi_near.nobody.key = 1;
    for (int i = 0; i < SMI_CLASSES; i++) smi_no_bins.current[i] = &smi_near.nobody;
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
    void *block = smi_alloc_short(heap, size, tag);
    return SMI_LIKELY(block != NULL) ? block : smi_alloc_slow(heap, NULL, 16, size, tag, smi_nowhere, false, "sagemem_alloc");
}

SAGEMEM_API SMI_HOT void *sagemem_alloc(sagemem_heap *heap, size_t size, sagemem_tag tag) {
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

SAGEMEM_API SMI_HOT void sagemem_free(void *block) {
    if (SMI_UNLIKELY(!smi_free_slab(smi_lookup_near(block), block))) smi_free_plain(block);
}

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
static void *smi_resize_in_place(const smi_ref *ref, void *block, size_t size, const char *call) {
    smi_domain *d = ref->domain;
    if (smi_huge_holds(ref->page, size)) return smi_huge_commit(d, ref->page, size, call);
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
    smi_watch_copy(fresh, block, keep);
    if (zero && !zeroed) memset((char *)fresh + keep, 0, sagemem_size(fresh) - keep);
    if (ref->system != NULL) smi_system_free(ref->system);
    else smi_free_own(ref, block, site);
    return fresh;
}

/* tentative: as in smi_wish. */
static void *smi_realloc_if(void *block, size_t size, sagemem_tag tag, smi_site site, bool tentative, const char *call) {
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
            bool stays = same && smi_huge_holds(ref.page, size);
            result = same ? smi_resize_in_place(&ref, block, size, call) : NULL;
            if (result != NULL && (heap->flags & SAGEMEM_HEAP_ZERO) != 0 && !(stays && size > ref.size)) {
                /* What may show when it grows again, and what it has grown by. */
                size_t now = sagemem_size(result), from = size < ref.size ? size : ref.size;
                memset((char *)result + from, 0, now - from);
            }
            if (result == NULL && !stays) result = smi_resize_by_copy(&ref, block, size, new_tag, site, call);
            if (result == NULL && same && size <= ref.size && size > ref.size / 4) {
                result = block; /* too large is better than not at all */
                if ((heap->flags & SAGEMEM_HEAP_ZERO) != 0) memset((char *)block + size, 0, ref.size - size);
            }
        } else {
            heap = NULL;
        }
        if (shared != NULL) smi_use_end(shared);
        if (result != NULL || heap == NULL || tentative || !smi_reclaim(heap, &step, size)) {
            if (result == NULL && heap != NULL && !tentative && (heap->flags & SAGEMEM_HEAP_ABORT_ON_NOMEM) != 0 &&
                smi_mine.error.status != SAGEMEM_E_ARGUMENT) {
                smi_log(SAGEMEM_LOG_ERROR, "%s: %zu bytes: %s", call, size, smi_mine.error.message);
                abort();
            }
            return result;
        }
    }
}

static void *smi_realloc(void *block, size_t size, sagemem_tag tag, smi_site site, const char *call) {
    return smi_realloc_if(block, size, tag, site, false, call);
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
    if (to == to->base) smi_publish(to, false); /* it may have been seen already, in its scope */
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
                    smi_watch_copy(result, block, ref.size);
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
    smi_watch_copy(fresh, block, ref.size);
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

/* Blocks that are counted one by one: all but those in slab pages. Those of the scopes inside are among them where the domain
 * counts these, and so are huge ones: smi_headers takes both off. */
static uint64_t smi_headered(const smi_domain *d) {
    uint64_t blocks = 0;
    for (uint32_t g = 0; g < SMI_LOAD(&d->groups_end); g++)
        for (int i = 0; SMI_LOAD_ACQUIRE(&d->group[g]) != NULL && i < SMI_GROUP; i++)
            blocks += smi_record_blocks(&d->group[g]->record[i]) +
                      smi_fresh_blocks(smi_fresh_of(d, (sagemem_tag)(g * SMI_GROUP + (unsigned)i)));
    return blocks;
}

/* Bytes around the blocks of a domain, whose smi_headered is given: a snapshot has it from its own walk. In a plain domain only
 * blocks in chunks have any: a word each. Under its heap's lock. */
static uint64_t smi_headers(const smi_domain *d, uint64_t headered) {
    if (d->pre != 0 || (d->flags & SAGEMEM_HEAP_SYSTEM) != 0) return SMI_LOAD(&d->header_bytes);
    uint64_t others = 0;
    for (const smi_domain *in = NULL; (in = smi_domain_inside(d, in)) != NULL;) others += smi_headered(in);
    for (const smi_page *p = d->pages; p != NULL; p = p->domain_next) others += p->kind == SMI_HUGE;
    return 8 * smi_minus(headered, others);
}

/* Of held: what no block can use. Slab pages: the rest behind the last block. Under smi_registry_lock. */
static uint64_t smi_overhead(smi_domain *h) {
    uint64_t bytes = 0;
    smi_lock_take(&h->lock);
    for (const smi_domain *d = h; d != NULL; d = smi_domain_after(h, (smi_domain *)(uintptr_t)d))
        bytes += smi_headers(d, smi_headered(d));
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

/* A heap whose pages are ordinary ones, of which the system was asked to make huge ones as it sees fit. */
static bool smi_wishes_huge(const smi_domain *h) {
    return h->has_source && smi_source_wants_huge(&h->source) && SMI_LOAD(&h->budget.held) > SMI_LOAD(&h->huge_page_bytes);
}
static bool smi_any_wishes_huge(const smi_domain *h) {
    bool any = smi_wishes_huge(h);
    for (const smi_domain *c = h->children; c != NULL && !any; c = c->sibling_next) any = smi_any_wishes_huge(c);
    return any;
}

typedef struct smi_huge_count {
    smi_domain *heap;
    uint64_t bytes;
} smi_huge_count;
/* The system tells by mappings, and merges neighbours: a page's part of a mapping is its part of the huge pages there. */
static void smi_huge_seen_below(smi_domain *h, uintptr_t begin, uintptr_t end, uint64_t bytes, uint64_t *sum) {
    if (smi_wishes_huge(h)) {
        smi_lock_take(&h->lock);
        for (smi_domain *d = h; d != NULL; d = smi_domain_after(h, d))
            for (const smi_page *p = d->pages; p != NULL; p = p->domain_next) {
                uintptr_t first = (uintptr_t)p->base, last = first + p->bytes;
                if (first < begin) first = begin;
                if (last > end) last = end;
                if (!p->on_huge_pages && first < last)
                    *sum += (uint64_t)((double)bytes * ((double)(last - first) / (double)(end - begin)));
            }
        smi_lock_give(&h->lock);
    }
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_huge_seen_below(c, begin, end, bytes, sum);
}
static void smi_huge_seen(void *ctx, uintptr_t begin, uintptr_t end, uint64_t bytes) {
    smi_huge_count *c = (smi_huge_count *)ctx;
    smi_huge_seen_below(c->heap, begin, end, bytes, &c->bytes);
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
    smi_huge_count huge = {h, 0};
    if (smi_any_wishes_huge(h)) smi_os_huge_look(smi_huge_seen, &huge);
    out->huge_page_bytes += huge.bytes;
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
    *used_at_peak = smi_record_at_peak(h, tag);
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
    out->duration_ns = smi_os_ticks_ns(s->ended_after);
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
    if (r != NULL) smi_record_sum(r, NULL, &s);
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
            SMI_STORE_RELEASE(&h->pending, 1);
        }
    smi_lock_give(&smi_registry_lock);
    /* One's own heaps at once. The flag says which are left, so that no lock is held while pages go; the way is taken up where
     * it was left, if that heap is one's own still, so that it is walked once. */
    for (smi_domain *h = NULL;;) {
        smi_lock_take(&smi_registry_lock);
        if (h != NULL && SMI_LOAD(&h->owner) != smi_self()) h = NULL;
        do h = smi_heap_after(&smi_process, h);
        while (h != NULL && !(SMI_LOAD(&h->owner) == smi_self() && SMI_LOAD(&h->trim_wanted)));
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

static bool smi_source_wants_huge(const sagemem_source *source) { return source->map_fn == smi_source_huge_map; }
static bool smi_source_gave_huge(const sagemem_source *source) { return smi_source_wants_huge(source) && smi_huge_obtained; }

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
        smi_mine.fails_now = false;
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

/* -- Pools -------------------------------------------------------------------------------------------------------- */

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
 *     front      a few places freed lately, newest on top
 *     run        free places in a row, from `next` on up to `stop`, whose bits are cleared all at once
 *
 * The maps are the truth: a place is handed out where its bit is set. `open` and `open_map` are set where a bit below is
 * set; they are cleared only when somebody looks there in vain. A place in `front` is free like any other; from the maps
 * places are taken only while `front` is empty, so that what is in it is never handed out by them.
 *
 * Two paths are shorter than the others. Allocating is, in a run: it is made when `front` is empty, and before anything but
 * an allocation looks at the pool, what is left of it goes back to its map (smi_pool_fold): the maps are the truth again,
 * and the peak, which is where a climb ends, is noted. Freeing is, into the section `target`, which there is while `front`
 * is full. Allocations in a row and frees in a row take these; where both alternate, `front` serves both.
 *
 * Objects are handed out from the lowest free address of the section in use, then from the lowest section with any free
 * place: whatever the order of the frees was, what is allocated one after the other lies one after the other. Places from
 * `fresh` on were never handed out, and their memory was never touched.
 *
 * A free place begins with a proof, address ^ key, that shows whether it was written to; in a SAGEMEM_HEAP_CHECKED
 * heap all of it is filled, and there is a red zone behind each object. The first place does not lie at the start of the
 * block: no object is a block, so that sagemem_free of one is seen. */
enum {
    SMI_POOL_WORDS = 60, /* of a map: a section's structure is 1 KiB then, with two of them */
    SMI_POOL_PLACES = 64 * SMI_POOL_WORDS,
    SMI_POOL_HEAD = 64,                /* in front of the first place, at least: a line, so that objects of 64 bytes are lines */
    SMI_POOL_OBJECT_MAX = 1 << 18,     /* bytes of an object */
    SMI_POOL_BLOCK_MAX = 1 << 20,      /* bytes of a block that was not asked for by initial_count */
    SMI_POOL_PAGE = SMI_GRANULE - 256, /* bytes of a block that fits into a page with all that any heap puts around it */
    SMI_POOL_FRONT = 16,               /* a random walk of allocations and frees finds it empty once in 17 times */
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

/* An entry of the table. */
typedef struct smi_pool_entry {
    char *start;               /* the section's: the map can be looked at without waiting for the section */
    smi_pool_section *section; /* NULL: none */
} smi_pool_entry;

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
    uint64_t key;              /* of the proofs */
    char *next, *stop;         /* the run, in the section in use; stop == NULL: none */
    size_t stride;             /* bytes from place to place */
    uint64_t inverse;          /* 2^64 / stride, rounded up */
    uint64_t freed;            /* objects given back */
    uint64_t total;            /* objects handed out, and what is left of the run */
    smi_pool_hint *top, *end;  /* of front: the last in use, the last there is */
    smi_pool_section *section; /* in use: places come from here */
    smi_pool_section *last;    /* where a pointer was found last */
    smi_pool_section *target;  /* of the shortest way of freeing; smi_pool_none while front is not full */
    uint64_t peak;             /* most objects at once */
    bool swift;                /* has short paths: no hook, nothing to fill, no tool that watches, and every free place a proof */
    bool proves;               /* free places begin with a proof */
    bool checked, zero;        /* the heap's flags */
    bool busy;                 /* a hook is running */
    bool growing;              /* a block is being asked for: reclaimers may be running */
    uint8_t table_shift;       /* hash: the upper bits of a product; 64 - log2(slots) */
    uint8_t window_shift;      /* log2 of the bytes of a window: a quarter to half of a section */
    smi_pool_entry *table;
    smi_pool_hint front[SMI_POOL_FRONT + 1]; /* [0]: below the first */
    /* seldom needed */
    smi_pool_section **sections;
    uint64_t *open_map; /* behind the list */
    size_t section_count, section_room, lowest;
    size_t table_entries;
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

static smi_pool_section smi_pool_none;      /* stands for no section: nothing lies in it, nothing is free */
static smi_pool_entry smi_pool_untabled[2]; /* the table of a pool without sections */

static uint64_t *smi_pool_map(const smi_pool_section *s) { return (uint64_t *)(void *)(uintptr_t)(s + 1); }
static size_t smi_pool_words(const smi_pool_section *s) { return ((size_t)s->places + 63) / 64; }
static uint64_t *smi_pool_gone(const smi_pool_section *s) { return smi_pool_map(s) + smi_pool_words(s); }
static size_t smi_pool_section_size(size_t places) { return sizeof(smi_pool_section) + (places + 63) / 64 * 16; }
static uint64_t smi_pool_live(const smi_pool_section *s, size_t w) { return ~(smi_pool_map(s)[w] | smi_pool_gone(s)[w]); }
static unsigned smi_pool_first_bit(uint64_t bits) { return (unsigned)__builtin_ctzll((unsigned long long)bits); }

/* Which place begins `offset` bytes behind the start of a section. False: that is inside of one. For the short paths: one product
 * is the quotient and, as its fraction, whether there is a remainder (Lemire, Kaser, Kurz 2019); exact below 2^32. */
SMI_INLINE bool smi_pool_index(const sagemem_pool *p, size_t offset, size_t *index) {
#ifdef __SIZEOF_INT128__
    __extension__ unsigned __int128 product = (unsigned __int128)p->inverse * offset;
    *index = (size_t)(product >> 64);
    return (uint64_t)product < p->inverse;
#else
    *index = offset / p->stride;
    return *index * p->stride == offset;
#endif
}

SMI_INLINE uint64_t smi_pool_proof(const sagemem_pool *p, const char *place) { return (uint64_t)(uintptr_t)place ^ p->key; }

/* -- Finding: a free place, the section of a pointer -------------------------------------------------------------- */

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

/* A word of a section's map that was not known to have a free place has one. */
SMI_NOINLINE void smi_pool_open(sagemem_pool *p, smi_pool_section *s, size_t word) {
    if (s->open == 0) smi_bits_set(p->open_map, s->number, 1);
    if (s->number < p->lowest) p->lowest = s->number;
    s->open |= (uint64_t)1 << word;
}

SMI_INLINE size_t smi_pool_slot(const sagemem_pool *p, uintptr_t window) {
    return (size_t)((uint64_t)window * SMI_MIX >> p->table_shift);
}

/* The section that any pointer at all lies in, and how far behind its start; or NULL. */
SMI_INLINE smi_pool_section *smi_pool_find(sagemem_pool *p, const void *at, size_t *offset) {
    smi_pool_section *s = p->last;
    *offset = (uintptr_t)at - (uintptr_t)s->start;
    if (*offset < s->bytes) return s;
    size_t mask = ((size_t)1 << (64 - p->table_shift)) - 1;
    for (size_t i = smi_pool_slot(p, (uintptr_t)at >> p->window_shift); (s = p->table[i].section) != NULL; i = (i + 1) & mask) {
        *offset = (uintptr_t)at - (uintptr_t)p->table[i].start;
        if (*offset < s->bytes) return p->last = s;
    }
    return NULL;
}

/* -- The short paths: no hook, nothing to tell anybody ------------------------------------------------------------ */

/* Objects in use: what is left of a run is not. */
SMI_INLINE uint64_t smi_pool_objects(const sagemem_pool *p) { return p->total - p->freed; }

/* Whenever objects were allocated. What is on top of front was live when front was last empty: a place that comes from there
 * makes no new peak. */
SMI_INLINE void smi_pool_count_peak(sagemem_pool *p) {
    if (smi_pool_objects(p) > p->peak) p->peak = smi_pool_objects(p);
}

/* What is left of the run is free again, and the climb is over. */
SMI_NOINLINE void smi_pool_fold_run(sagemem_pool *p) {
    if (p->next != p->stop) {
        size_t index = (size_t)(p->next - p->section->start) / p->stride, rest = (size_t)(p->stop - p->next) / p->stride;
        smi_bits_set(smi_pool_map(p->section), index, rest);
        p->total -= rest;
    }
    p->next = p->stop = NULL;
    smi_pool_count_peak(p);
}
SMI_INLINE void smi_pool_fold(sagemem_pool *p) {
    if (SMI_UNLIKELY(p->stop != NULL)) smi_pool_fold_run(p);
}

/* The next place of the run, which is not at its end. Its proof was not looked at. */
SMI_INLINE char *smi_pool_step(sagemem_pool *p) {
    char *place = p->next;
    p->next = place + p->stride;
    return place;
}

/* The place on top of front, which is not empty. Its proof was not looked at. */
SMI_INLINE char *smi_pool_pop(sagemem_pool *p) {
    smi_pool_hint *top = p->top--;
    *top->word ^= top->mask;
    p->target = &smi_pool_none;
    p->total++;
    return top->object;
}

/* The lowest word with a free place of the section in use. NULL: not without a look around. */
SMI_INLINE uint64_t *smi_pool_lowest(const sagemem_pool *p) {
    smi_pool_section *s = p->section;
    if (SMI_UNLIKELY(s->open == 0)) return NULL;
    uint64_t *word = &smi_pool_map(s)[smi_pool_first_bit(s->open)];
    return SMI_LIKELY(*word != 0) ? word : NULL;
}

/* The lowest free place of the section in use and those in a row behind it that were in use before, as far as their word goes,
 * are the run, when front is empty and there is none. False: there is no such place. */
SMI_INLINE bool smi_pool_run(sagemem_pool *p) {
    uint64_t *word = smi_pool_lowest(p);
    if (SMI_UNLIKELY(word == NULL)) return false;
    smi_pool_section *s = p->section;
    uint64_t bits = *word, behind = bits + (bits & (0 - bits)); /* the lowest bits in a row, carried to the one behind them */
    size_t first = (size_t)(word - smi_pool_map(s)) * 64, end = first + (behind != 0 ? smi_pool_first_bit(behind) : 64);
    first += smi_pool_first_bit(bits);
    if (SMI_UNLIKELY(end > s->fresh)) {
        if (first >= s->fresh) return false;
        end = s->fresh;
        behind = UINT64_MAX << end % 64;
    }
    *word = bits & behind;
    p->next = s->start + first * p->stride;
    p->stop = s->start + end * p->stride;
    p->total += end - first;
    return true;
}

/* The lowest free place of the section in use, when front is empty and there is no run. NULL: not without a look around. */
SMI_INLINE char *smi_pool_take(sagemem_pool *p, bool *used_before) {
    uint64_t *word = smi_pool_lowest(p);
    if (SMI_UNLIKELY(word == NULL)) return NULL;
    smi_pool_section *s = p->section;
    size_t index = (size_t)(word - smi_pool_map(s)) * 64 + smi_pool_first_bit(*word);
    *word &= *word - 1;
    *used_before = index < s->fresh;
    if (!*used_before) s->fresh = (uint32_t)index + 1;
    p->total++;
    return s->start + index * p->stride;
}

/* The place of a live object is free. There is no run. */
SMI_INLINE void smi_pool_give(sagemem_pool *p, smi_pool_section *s, size_t index, char *place) {
    size_t w = index / 64;
    uint64_t *word = &smi_pool_map(s)[w], mask = (uint64_t)1 << (index % 64), bits = *word;
    if (p->proves) {
        uint64_t proof = smi_pool_proof(p, place);
        memcpy(place, &proof, sizeof proof);
    }
    *word = bits | mask;
    if (SMI_UNLIKELY(bits == 0)) smi_pool_open(p, s, w);
    if (p->top == p->end) {
        p->target = s;
        return;
    }
    smi_pool_hint *top = ++p->top;
    top->object = place;
    top->word = word;
    top->mask = mask;
}

/* Whether a free place that was in use before is as it was left. */
SMI_INLINE bool smi_pool_intact(const sagemem_pool *p, const char *place) {
    uint64_t found;
    memcpy(&found, place, sizeof found);
    return SMI_LIKELY(found == smi_pool_proof(p, place));
}

/* -- Damage ------------------------------------------------------------------------------------------------------- */

/* The first byte of a place in a checked heap that is not as it was left: behind an object, or anywhere in a free place.
 * stride: there is none. */
static size_t smi_pool_scan(const sagemem_pool *p, const char *place, bool live) {
    size_t from = live ? p->desc.object_size : 0;
    return from + smi_scan_quiet(place + from, live ? SMI_FILL_ZONE : SMI_FILL_FREED, p->stride - from);
}

/* Whether a place that is or was in use is damaged, and how. */
static bool smi_pool_damaged(const sagemem_pool *p, const char *place, bool live, char *text, size_t size) {
    size_t at = p->checked ? smi_pool_scan(p, place, live) : p->stride;
    if (at == p->stride && (live || !p->proves || smi_pool_intact(p, place))) return false;
    char where[32] = "at its start";
    if (p->checked) smi_text(where, sizeof where, "at byte %zu", at);
    smi_text(text, size, "object %p (%zu bytes) of pool '%s' (tag '%s') was written to %s%s", (const void *)place,
             p->desc.object_size, smi_object_name(&p->object), sagemem_tag_name(p->desc.tag), where,
             live ? ", past its end" : " after it was freed");
    return true;
}

/* A place that was taken turns out to have been written to while it was free. Nobody gets it any more; that only the long
 * way sees. */
SMI_NOINLINE void smi_pool_lose(sagemem_pool *p, const char *place, const char *why, const char *call) {
    size_t offset;
    const smi_pool_section *s = smi_pool_find(p, place, &offset);
    SMI_ASSUME(s != NULL);
    smi_bits_set(smi_pool_gone(s), offset / p->stride, 1);
    p->swift = false;
    p->object.quick = 0;
    p->total--;
    p->capacity--;
    smi_pool_fold(p);
    smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call, "%s; look for a pointer that is used after the free", why);
}

/* -- Blocks ------------------------------------------------------------------------------------------------------- */

static size_t smi_pool_table_slots(const sagemem_pool *p) {
    return p->table != smi_pool_untabled ? (size_t)1 << (64 - p->table_shift) : 0;
}
/* The list of sections and, behind it, the map of those that are open. */
static size_t smi_pool_list_size(size_t room) { return room * sizeof(smi_pool_section *) + room / 64 * sizeof(uint64_t); }

/* Enters a section for each window that it reaches into. There is room. */
static void smi_pool_table_put(sagemem_pool *p, smi_pool_section *s) {
    size_t mask = smi_pool_table_slots(p) - 1;
    uintptr_t first = (uintptr_t)s->start >> p->window_shift, end = ((uintptr_t)s->start + s->bytes - 1) >> p->window_shift;
    for (uintptr_t window = first; window <= end; window++) {
        size_t i = smi_pool_slot(p, window);
        while (p->table[i].section != NULL) i = (i + 1) & mask;
        p->table[i].start = s->start;
        p->table[i].section = s;
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
    size_t slots = smi_pool_table_slots(p), old = slots, need = 2 * (p->table_entries + sections * each);
    if (slots < SMI_POOL_SLOTS) slots = SMI_POOL_SLOTS;
    while (slots < need) slots *= 2;
    if (slots == old) return true;
    smi_pool_entry *table = (smi_pool_entry *)smi_object_meta(&p->object, slots * sizeof *table, call);
    if (table == NULL) return false;
    if (old > 0) smi_meta_free(p->table, old * sizeof *table);
    p->table = table;
    p->table_shift = (uint8_t)(64 - smi_pool_first_bit(slots));
    smi_pool_table_fill(p);
    return true;
}

/* Room in the list for that many more sections. */
static bool smi_pool_list_room(sagemem_pool *p, size_t sections, const char *call) {
    size_t room = p->section_room > 0 ? p->section_room : 64, count = p->section_count;
    while (room < count + sections) room *= 2;
    if (room == p->section_room) return true;
    smi_pool_section **list = (smi_pool_section **)smi_object_meta(&p->object, smi_pool_list_size(room), call);
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
    smi_pool_section *s = (smi_pool_section *)smi_object_meta(&p->object, smi_pool_section_size(places), call);
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
static char *smi_pool_block_insist(sagemem_pool *p, size_t alignment, size_t size, const char *call) {
    sagemem_heap *heap = p->desc.heap;
    p->growing = true;
    smi_leave(heap);
    char *block = (char *)smi_object_alloc(&p->object, alignment, size, p->desc.tag, false, call);
    if (smi_enter(heap, call) == NULL) return NULL;
    p->growing = false;
    return block;
}

/* A block for so many places, or for fewer where that is not to be had: *places, down to `least`. */
static char *smi_pool_block_take(sagemem_pool *p, size_t *places, size_t least, const char *call) {
    sagemem_error before = smi_mine.error;
    for (;;) {
        size_t size = p->head + *places * p->stride;
        char *block = *places > least ? smi_pool_block_try(p, p->head, size, call) : smi_pool_block_insist(p, p->head, size, call);
        if (block != NULL) smi_mine.error = before;       /* what was met on the way is nobody's failure */
        bool meant = block == NULL && smi_mine.fails_now; /* a failure on purpose is to be seen */
        if (meant) smi_mine.fails_now = false;
        if (block != NULL || *places <= least || meant) return block;
        *places = *places / 2 > least ? *places / 2 : least;
    }
}

static bool smi_pool_full(const sagemem_pool *p, uint64_t room, const char *call) {
    if (p->desc.max_count == 0 || room < p->desc.max_count) return false;
    smi_fail(SAGEMEM_E_FULL, 0, call, "pool '%s' has %llu objects, and its max_count is %zu; free some, or raise max_count",
             smi_object_name(&p->object), (unsigned long long)(p->total - p->freed), p->desc.max_count);
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

/* -- bypass: objects that are blocks ------------------------------------------------------------------------------ */

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
    smi_pool_loose **slots = (smi_pool_loose **)smi_object_meta(&p->object, count * sizeof *slots, call);
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

/* Whether the heap still has the object's block; if not, the fault handler was called. What is not there is forgotten, what is
 * damaged stays. */
static bool smi_pool_loose_lives(sagemem_pool *p, smi_pool_loose *l, const char *call) {
    smi_ref ref;
    sagemem_status status = smi_resolve_or_fault(l->block, &ref, call);
    if (status == SAGEMEM_OK || status == SAGEMEM_E_CORRUPT) return status == SAGEMEM_OK;
    smi_pool_loose_forget(p, l);
    p->freed++;
    return false;
}

/* A new object. That its address is one of an object already shows what happened to that. */
static char *smi_pool_loose_take(sagemem_pool *p, const char *call) {
    if (smi_pool_full(p, p->capacity, call) || !smi_pool_loose_room(p, call)) return NULL;
    smi_pool_loose *l = (smi_pool_loose *)smi_object_meta(&p->object, sizeof *l, call);
    if (l == NULL) return NULL;
    size_t alignment = p->desc.alignment > 16 ? p->desc.alignment : 16;
    l->block = smi_pool_block_insist(p, alignment, p->desc.object_size, call);
    smi_pool_loose *former = l->block != NULL ? smi_pool_loose_find(p, l->block) : NULL;
    if (former != NULL) {
        smi_pool_loose_forget(p, former);
        p->freed++;
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
                  "object %p of pool '%s' was freed by another call; give objects back by sagemem_pool_free", (void *)l->block,
                  smi_object_name(&p->object));
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

/* -- Objects ------------------------------------------------------------------------------------------------------ */

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
              call, "pool '%s': %s", smi_object_name(&p->object), text);
}

/* Finds a live object; what is none goes to the fault handler. */
static bool smi_pool_locate(sagemem_pool *p, const void *object, smi_pool_place *at, const char *call) {
    at->object = (char *)(uintptr_t)object;
    at->loose = NULL;
    at->section = NULL;
    if (p->desc.bypass) {
        at->loose = smi_pool_loose_find(p, object);
        if (at->loose != NULL) return smi_pool_loose_lives(p, at->loose, call);
        smi_pool_refuse_loose(p, object, call);
        return false;
    }
    size_t offset;
    smi_pool_section *s = at->section = smi_pool_find(p, object, &offset);
    if (s == NULL) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                  "%p is no object of pool '%s'; give each object back to the pool that it came from", object,
                  smi_object_name(&p->object));
        return false;
    }
    at->index = offset / p->stride;
    if (at->index * p->stride != offset) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                  "%p lies %zu bytes inside object %p of pool '%s'; only the start of an object can be used", object,
                  offset - at->index * p->stride, (void *)(s->start + at->index * p->stride), smi_object_name(&p->object));
        return false;
    }
    if ((smi_pool_live(s, at->index / 64) >> (at->index % 64) & 1) != 0) return true;
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
              "object %p (%zu bytes) of pool '%s' (tag '%s') was freed already; look for a second free of it", object,
              p->desc.object_size, smi_object_name(&p->object), sagemem_tag_name(p->desc.tag));
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
    char text[SMI_WHY + 120];
    bool used_before = true;
    char *place = NULL;
    while (place == NULL) { /* whatever was done to find a place may have filled front, or made a run */
        smi_pool_fold(p);
        place = p->top > p->front ? smi_pool_pop(p) : smi_pool_take(p, &used_before);
        if (place == NULL && !smi_pool_seek(p) && !smi_pool_more(p, call)) return NULL;
    }
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
    if (status == SAGEMEM_OK) {
        smi_pool_count_peak(p);
        return object;
    }
    smi_pool_place at;
    if (smi_pool_locate(p, object, &at, call)) smi_pool_vacate(p, &at, call);
    p->total--;
    smi_fail(status, 0, call, "%s of pool '%s' failed with %s, and the object was not made; see why it does",
             from != NULL ? "copy_fn" : "init_fn", smi_object_name(&p->object), sagemem_status_name(status));
    return NULL;
}

static void smi_pool_clean(sagemem_pool *p, void *object) {
    if (p->desc.cleanup_fn == NULL) return;
    p->busy = true;
    p->desc.cleanup_fn(p->desc.ctx, object);
    p->busy = false;
}

/* The map is the truth when it is looked at next, whatever was allocated meanwhile. */
static bool smi_pool_visit_one(sagemem_pool *p, void *object, bool (*visit)(void *ctx, void *object), void *ctx) {
    bool more = visit(ctx, object);
    smi_pool_fold(p);
    return more;
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
                if (!smi_pool_visit_one(p, s->start + (w * 64 + smi_pool_first_bit(live)) * p->stride, visit, ctx)) return;
    }
}

static bool smi_pool_clean_visit(void *ctx, void *object) {
    smi_pool_clean((sagemem_pool *)ctx, object);
    return true;
}

/* Every object is cleaned up and not counted any more. What lies in sections stays where it is; what is loose is freed, or
 * leaked where it is damaged. */
static void smi_pool_clean_all(sagemem_pool *p, const char *call) {
    while (p->oldest != NULL) {
        smi_pool_place at = {p->oldest->block, NULL, 0, p->oldest};
        bool lives = smi_pool_loose_lives(p, at.loose, call);
        if (lives) smi_pool_clean(p, at.object);
        if (lives) smi_pool_vacate(p, &at, call);
        else if (p->oldest == at.loose) smi_pool_loose_forget(p, at.loose);
    }
    if (p->desc.cleanup_fn != NULL) smi_pool_visit(p, smi_pool_clean_visit, p);
    p->freed = p->total;
}

/* -- The pool as an object of its heap ---------------------------------------------------------------------------- */

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
    sagemem_pool *p = (sagemem_pool *)(uintptr_t)o;
    smi_check_ctx c = {call, 0};
    smi_pool_fold(p);
    for (size_t i = 0; i < p->section_count && (p->checked || p->proves); i++) smi_pool_check_section(p, p->sections[i], &c);
    return c.damaged;
}

static void smi_pool_end(smi_object *o) {
    const char *call = "sagemem_pool_destroy";
    sagemem_pool *p = (sagemem_pool *)o;
    bool empty;
    smi_pool_fold(p);
    if (p->checked) smi_pool_check(o, call);
    smi_pool_clean_all(p, call);
    for (size_t first = 0, n; first < p->section_count; first += n) {
        n = smi_pool_block_sections(p, first, &empty);
        smi_pool_block_free(p, first, n, call);
    }
    smi_meta_free(p->sections, smi_pool_list_size(p->section_room));
    if (p->table != smi_pool_untabled) smi_meta_free(p->table, smi_pool_table_slots(p) * sizeof *p->table);
    smi_meta_free(p->slots, p->slot_count * sizeof *p->slots);
}

static const smi_object_kind smi_pool_kind = {"pool", sizeof(sagemem_pool), smi_pool_end, smi_pool_check};

/* The pool may be used now, its maps are the truth, and its short paths are open if it has any. True: a shared heap is locked. */
static bool smi_pool_enter(const sagemem_pool *pool, const char *call) {
    if (!smi_object_enter(pool, &smi_pool_kind, call)) return false;
    sagemem_pool *p = (sagemem_pool *)(uintptr_t)pool;
    smi_pool_fold(p);
    if (p->swift) SMI_STORE(&p->object.quick, SMI_LOAD(&p->desc.heap->owner)); /* no thread is SMI_ANY */
    if (!p->busy) return true;
    smi_object_leave(&p->object);
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
              "a hook of pool '%s' is running: it may use the heap, but not its own pool; make what an object owns elsewhere",
              smi_object_name(&p->object));
    return false;
}

/* The same for calls that take away what a visit is looking at, or the pool that a block is being asked for. */
static bool smi_pool_enter_alone(const sagemem_pool *p, const char *call) {
    if (!smi_pool_enter(p, call)) return false;
    if (p->visits == 0 && !p->growing) return true;
    smi_object_leave(&p->object);
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
              "pool '%s' is being visited by sagemem_pool_each, or is growing: a visit may free the object that it is given, a "
              "reclaimer objects; do this after it",
              smi_object_name(&p->object));
    return false;
}

/* What smi_object_enter finds, in line. That this word is the calling thread is in a pool that has let it in. */
SMI_INLINE bool smi_pool_quick(const sagemem_pool *p) { return p != NULL && smi_is_self(SMI_LOAD(&p->object.quick)); }

/* -- Descriptions ------------------------------------------------------------------------------------------------- */

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
    p->inverse = UINT64_MAX / p->stride + 1; /* 1 byte: 0 */
    p->proves = p->stride >= sizeof(uint64_t) && !p->checked && !smi_watched;
    bool hooked = d->init_fn != NULL || d->cleanup_fn != NULL;
    p->swift = p->proves && !hooked && !d->bypass && !p->zero;
    size_t most = (SMI_POOL_BLOCK_MAX - p->head) / p->stride;
    p->section_places = most == 0 ? 1 : most < SMI_POOL_PLACES ? (uint32_t)most : (uint32_t)SMI_POOL_PLACES;
    size_t section_bytes = p->section_places * p->stride;
    while (section_bytes >> p->window_shift >= 4) p->window_shift++;
    if (!__builtin_mul_overflow(d->initial_count, p->stride, &bytes) && bytes <= SIZE_MAX / 2 - p->head) return true;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "initial_count %zu objects of %zu bytes are more than an address can count",
             d->initial_count, d->object_size);
    return false;
}

/* Everything but blocks. */
static bool smi_pool_set_up(sagemem_pool *p, const sagemem_pool_desc *desc, const char *call) {
    sagemem_heap *heap = p->object.domain->base;
    p->desc = *desc;
    p->desc.heap = heap;
    p->desc.name = smi_object_name(&p->object);
    p->section = p->last = p->target = &smi_pool_none;
    p->table = smi_pool_untabled;
    p->table_shift = 63;
    p->checked = smi_checked(heap);
    p->zero = (heap->flags & SAGEMEM_HEAP_ZERO) != 0;
    p->key = (smi_secret ^ (uint64_t)(uintptr_t)p) * SMI_MIX;
    p->top = p->front;
    p->end = p->checked || smi_watched ? p->front : p->front + SMI_POOL_FRONT; /* a late use is seen while the place is free */
    return smi_pool_lay_out(p, call);
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
    bool good = smi_pool_set_up(p, desc, call);
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

/* -- Allocation and free ------------------------------------------------------------------------------------------ */

SMI_NOINLINE void *smi_pool_alloc_slow(sagemem_pool *p) {
    const char *call = "sagemem_pool_alloc";
    if (!smi_pool_enter(p, call)) return NULL;
    void *object = smi_pool_make(p, NULL, call);
    smi_object_leave(&p->object);
    return object;
}

/* Taken by the short path, and damaged. */
SMI_NOINLINE char *smi_pool_alloc_damaged(sagemem_pool *p, const char *place) {
    char text[SMI_WHY + 120] = "";
    smi_pool_damaged(p, place, false, text, sizeof text);
    smi_pool_lose(p, place, text, "sagemem_pool_alloc");
    return NULL;
}

/* A place that was never in use, with no proof yet, or whatever is to be had. */
SMI_NOINLINE void *smi_pool_alloc_fresh(sagemem_pool *p) {
    bool used_before;
    char *place = smi_pool_take(p, &used_before);
    if (SMI_UNLIKELY(place == NULL)) return smi_pool_alloc_slow(p);
    smi_pool_count_peak(p);
    return place;
}

/* There is no run, or this is its end. */
SMI_HOT SMI_NOINLINE void *smi_pool_alloc_else(sagemem_pool *p) {
    char *place;
    if (p->top > p->front) {
        place = smi_pool_pop(p);
    } else {
        smi_pool_count_peak(p);
        if (SMI_UNLIKELY(!smi_pool_run(p))) return smi_pool_alloc_fresh(p);
        place = smi_pool_step(p);
    }
    return smi_pool_intact(p, place) ? place : smi_pool_alloc_damaged(p, place);
}

SAGEMEM_API SMI_HOT void *sagemem_pool_alloc(sagemem_pool *pool) {
    if (SMI_UNLIKELY(!smi_pool_quick(pool))) return smi_pool_alloc_slow(pool);
    if (SMI_UNLIKELY(pool->next == pool->stop)) return smi_pool_alloc_else(pool);
    char *place = smi_pool_step(pool);
    return smi_pool_intact(pool, place) ? place : smi_pool_alloc_damaged(pool, place);
}

SAGEMEM_API void *sagemem_pool_copy(sagemem_pool *pool, const void *from) {
    const char *call = "sagemem_pool_copy";
    if (from == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "from is NULL: pass the object to copy");
        return NULL;
    }
    if (!smi_pool_enter(pool, call)) return NULL;
    smi_pool_place at;
    size_t offset;
    bool ours = !pool->desc.bypass && smi_pool_find(pool, from, &offset) != NULL;
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
            p->freed++;
            smi_pool_vacate(p, &at, call);
        }
    }
    smi_object_leave(&p->object);
}

/* Not into `target`, or there is none. */
SMI_HOT SMI_NOINLINE void smi_pool_free_else(sagemem_pool *p, void *object) {
    size_t offset, index;
    smi_pool_fold(p);
    smi_pool_section *s = smi_pool_find(p, object, &offset);
    if (SMI_UNLIKELY(s == NULL || !smi_pool_index(p, offset, &index) || smi_bit(smi_pool_map(s), index))) {
        smi_pool_free_slow(p, object);
        return;
    }
    p->freed++;
    smi_pool_give(p, s, index, (char *)object);
}

SAGEMEM_API SMI_HOT void sagemem_pool_free(sagemem_pool *pool, void *object) {
    if (SMI_UNLIKELY(!smi_pool_quick(pool))) {
        smi_pool_free_slow(pool, object);
        return;
    }
    smi_pool_section *s = pool->target;
    size_t offset = (uintptr_t)object - (uintptr_t)s->start, index;
    if (SMI_LIKELY(offset < s->bytes && smi_pool_index(pool, offset, &index))) {
        uint64_t *map = smi_pool_map(s), bits = map[index / 64], more = bits | (uint64_t)1 << index % 64;
        if (SMI_LIKELY(more != bits && bits != 0)) {
            uint64_t proof = smi_pool_proof(pool, (char *)object);
            memcpy(object, &proof, sizeof proof);
            map[index / 64] = more;
            pool->freed++;
            return;
        }
    }
    smi_pool_free_else(pool, object);
}

/* -- All objects -------------------------------------------------------------------------------------------------- */

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
    smi_pool_clean_all(pool, call);
    pool->top = pool->front;
    pool->target = &smi_pool_none;
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
    p->section = p->last = p->target = &smi_pool_none;
    p->lowest = 0;
    p->top = p->front;
    if (p->table != smi_pool_untabled) memset(p->table, 0, smi_pool_table_slots(p) * sizeof *p->table);
    smi_pool_table_fill(p);
    if (count == 0) p->next_places = p->desc.initial_count;
}

SAGEMEM_API uint64_t sagemem_pool_trim(sagemem_pool *pool) {
    const char *call = "sagemem_pool_trim";
    if (!smi_object_enter(pool, &smi_pool_kind, call)) return 0;
    smi_pool_fold(pool);
    uint64_t before = pool->held;
    size_t kept = 0;
    bool used = pool->busy || pool->visits > 0, empty; /* no misuse: a reclaimer may be called at any time */
    if (used)
        smi_fail(SAGEMEM_E_BUSY, 0, call, "a hook or a visit of pool '%s' is running; trim it later",
                 smi_object_name(&pool->object));
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
    smi_pool_fold((sagemem_pool *)(uintptr_t)pool);
    out->objects = smi_pool_objects(pool);
    out->peak_objects = pool->peak;
    out->capacity = pool->capacity;
    out->blocks = pool->blocks;
    out->held = pool->held;
    out->total_allocs = pool->total;
    smi_object_leave(&pool->object);
    return SAGEMEM_OK;
}

/* -- Recyclers --------------------------------------------------------------------------------------------------- */

/* Every buffer, in use or idle, has a structure of its own apart from it, found by the buffer's address. Idle ones hang in
 * a tree by size and in a list by the time of their release:
 *
 *   slots [hash of address] -> buffer -> buffer             all
 *   tree                    -> by (size, newest first)      idle: the leftmost that is large enough is the best fit
 *   newest <-> ... <-> oldest                               idle: what is too much goes from the right
 *
 * The tree is a treap (Seidel, Aragon 1996): ordered by key from left to right and by rank from the root down. Ranks
 * are hashes of a counter, so that its depth is logarithmic as if they were random, and the same in every run. */

typedef struct smi_recycler_buffer {
    void *block;
    size_t size;                                  /* usable bytes */
    uint64_t released;                            /* idle: number of the release; 0: it is out */
    struct smi_recycler_buffer *chain;            /* same slot */
    struct smi_recycler_buffer *smaller, *larger; /* idle: the tree */
    struct smi_recycler_buffer *older, *newer;    /* idle: the list */
} smi_recycler_buffer;

enum { SMI_RECYCLER_SLOTS = 16 }; /* at first: 128 bytes */

struct sagemem_recycler {
    smi_object object;
    sagemem_recycler_desc desc; /* resolved */
    sagemem_recycler_stats stats;
    uint64_t releases;
    smi_recycler_buffer *tree, *newest, *oldest;
    smi_recycler_buffer **slots;
    size_t slot_count; /* a power of two */
    smi_recycler_buffer *first_slots[SMI_RECYCLER_SLOTS];
};

/* Where the chain of a block's slot begins. */
static smi_recycler_buffer **smi_recycler_slot(const sagemem_recycler *r, const void *block) {
    return &r->slots[(size_t)(((uint64_t)(uintptr_t)block * SMI_MIX) >> 32) & (r->slot_count - 1)];
}

static smi_recycler_buffer *smi_recycler_find(const sagemem_recycler *r, const void *block) {
    smi_recycler_buffer *b = *smi_recycler_slot(r, block);
    while (b != NULL && b->block != block) b = b->chain;
    return b;
}

/* Twice the slots. Without memory for them chains get longer, which is no failure. */
static void smi_recycler_widen(sagemem_recycler *r, const char *call) {
    size_t count = r->slot_count, bytes = count * sizeof(void *);
    smi_recycler_buffer **old = r->slots;
    sagemem_error before = smi_mine.error;
    smi_recycler_buffer **wide =
        bytes <= SIZE_MAX / 4 ? (smi_recycler_buffer **)smi_object_meta(&r->object, bytes * 2, call) : NULL;
    smi_mine.error = before;
    if (wide == NULL) return;
    r->slots = wide;
    r->slot_count = count * 2;
    for (size_t i = 0; i < count; i++)
        for (smi_recycler_buffer *b = old[i], *next; b != NULL; b = next) {
            next = b->chain;
            smi_recycler_buffer **slot = smi_recycler_slot(r, b->block);
            b->chain = *slot;
            *slot = b;
        }
    if (old != r->first_slots) smi_meta_free(old, bytes);
}

/* The finisher of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t smi_recycler_rank(const smi_recycler_buffer *b) {
    uint64_t z = b->released * SMI_MIX;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static bool smi_recycler_before(const smi_recycler_buffer *a, const smi_recycler_buffer *b) {
    return a->size != b->size ? a->size < b->size : a->released > b->released;
}

/* Goes down to where b's rank places it, and splits what hangs there around b. */
static void smi_recycler_tree_put(sagemem_recycler *r, smi_recycler_buffer *b) {
    uint64_t rank = smi_recycler_rank(b);
    smi_recycler_buffer **link = &r->tree;
    while (*link != NULL && smi_recycler_rank(*link) > rank)
        link = smi_recycler_before(b, *link) ? &(*link)->smaller : &(*link)->larger;
    smi_recycler_buffer *rest = *link, **left = &b->smaller, **right = &b->larger;
    *link = b;
    while (rest != NULL) {
        if (smi_recycler_before(rest, b)) {
            *left = rest;
            left = &rest->larger;
            rest = *left;
        } else {
            *right = rest;
            right = &rest->smaller;
            rest = *right;
        }
    }
    *left = *right = NULL;
}

/* What points to an idle buffer in the tree. */
static smi_recycler_buffer **smi_recycler_tree_find(sagemem_recycler *r, const smi_recycler_buffer *b) {
    smi_recycler_buffer **link = &r->tree;
    while (*link != b) link = smi_recycler_before(b, *link) ? &(*link)->smaller : &(*link)->larger;
    return link;
}

/* Puts what hangs below *link in its place, the higher rank first. */
static void smi_recycler_tree_remove(smi_recycler_buffer **link) {
    smi_recycler_buffer *left = (*link)->smaller, *right = (*link)->larger;
    while (left != NULL && right != NULL) {
        if (smi_recycler_rank(left) > smi_recycler_rank(right)) {
            *link = left;
            link = &left->larger;
            left = *link;
        } else {
            *link = right;
            link = &right->smaller;
            right = *link;
        }
    }
    *link = left != NULL ? left : right;
}

/* What points to the smallest idle buffer of at least that size, of several to the one released last; NULL: there is none, or
 * it is too large. */
static smi_recycler_buffer **smi_recycler_fit(sagemem_recycler *r, size_t size) {
    smi_recycler_buffer **best = NULL;
    for (smi_recycler_buffer **link = &r->tree; *link != NULL;) {
        bool enough = (*link)->size >= size;
        if (enough) best = link;
        link = enough ? &(*link)->smaller : &(*link)->larger;
    }
    /* What the heap adds to a block never counts: a size that was released is good for the same size again. */
    double most = (double)size * r->desc.slack, rounded = (double)size * (1 + 1 / 16.0) + 64;
    return best != NULL && (double)(*best)->size <= (most > rounded ? most : rounded) ? best : NULL;
}

/* Out of use: into the tree and the list. */
static void smi_recycler_idle(sagemem_recycler *r, smi_recycler_buffer *b) {
    b->released = ++r->releases;
    smi_recycler_tree_put(r, b);
    b->newer = NULL;
    b->older = r->newest;
    if (b->older != NULL) b->older->newer = b;
    else r->oldest = b;
    r->newest = b;
    r->stats.idle_buffers++;
    r->stats.idle_bytes += b->size;
}

static void smi_recycler_unidle(sagemem_recycler *r, smi_recycler_buffer **link) {
    smi_recycler_buffer *b = *link;
    smi_recycler_tree_remove(link);
    if (b->newer != NULL) b->newer->older = b->older;
    else r->newest = b->older;
    if (b->older != NULL) b->older->newer = b->newer;
    else r->oldest = b->newer;
    b->released = 0;
    r->stats.idle_buffers--;
    r->stats.idle_bytes -= b->size;
}

static void smi_recycler_out(sagemem_recycler *r, const smi_recycler_buffer *b) {
    r->stats.out_buffers++;
    r->stats.out_bytes += b->size;
}
static void smi_recycler_back(sagemem_recycler *r, const smi_recycler_buffer *b) {
    r->stats.out_buffers--;
    r->stats.out_bytes -= b->size;
}

/* The recycler does not know the buffer any more; its block is the caller's affair. */
static void smi_recycler_forget(sagemem_recycler *r, smi_recycler_buffer *b) {
    if (b->released != 0) smi_recycler_unidle(r, smi_recycler_tree_find(r, b));
    else smi_recycler_back(r, b);
    smi_recycler_buffer **link = smi_recycler_slot(r, b->block);
    while (*link != b) link = &(*link)->chain;
    *link = b->chain;
    smi_meta_free(b, sizeof *b);
}

static const char *smi_recycler_name(const sagemem_recycler *r) { return smi_object_name(&r->object); }

/* Whether an idle buffer lies as it was left, given the live block that is at its address. */
static sagemem_status smi_recycler_untouched(const sagemem_recycler *r, const smi_recycler_buffer *b, const smi_ref *ref,
                                             char *text, size_t size) {
    if (ref->size != b->size) {
        smi_text(text, size, "buffer %p (%zu bytes) of recycler '%s' was freed or resized after it was released", b->block, b->size,
                 smi_recycler_name(r));
        return SAGEMEM_E_STALE;
    }
    size_t at = smi_checked(r->object.domain) ? smi_scan_quiet(b->block, SMI_FILL_FREED, b->size) : b->size;
    if (at == b->size) return SAGEMEM_OK;
    smi_text(text, size, "buffer %p (%zu bytes) of recycler '%s' was written to at byte %zu after it was released", b->block,
             b->size, smi_recycler_name(r), at);
    return SAGEMEM_E_CORRUPT;
}

/* The same before the buffer is used again or freed; what is wrong goes to the fault handler. */
static bool smi_recycler_intact(const sagemem_recycler *r, const smi_recycler_buffer *b, const char *call) {
    char text[SMI_WHY];
    smi_ref ref;
    if (smi_resolve_or_fault(b->block, &ref, call) != SAGEMEM_OK) return false;
    sagemem_status status = smi_recycler_untouched(r, b, &ref, text, sizeof text);
    if (status == SAGEMEM_OK) return true;
    smi_fault(status == SAGEMEM_E_CORRUPT ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE, status, call, "%s", text);
    return false;
}

/* Frees a buffer; a damaged one is leaked, as the heap does. */
static void smi_recycler_drop(sagemem_recycler *r, smi_recycler_buffer *b, const char *call) {
    bool good = b->released == 0 || smi_recycler_intact(r, b, call);
    void *block = b->block;
    if (good) smi_watch_open(block, b->size);
    smi_recycler_forget(r, b);
    if (good) smi_free(block, smi_nowhere, call);
}

static uint64_t smi_recycler_drop_idle(sagemem_recycler *r, const char *call) {
    uint64_t bytes = r->stats.idle_bytes;
    while (r->oldest != NULL) smi_recycler_drop(r, r->oldest, call);
    return bytes;
}

static void smi_recycler_end(smi_object *object) {
    sagemem_recycler *r = (sagemem_recycler *)object;
    for (size_t i = 0; i < r->slot_count; i++)
        while (r->slots[i] != NULL) smi_recycler_drop(r, r->slots[i], "sagemem_recycler_destroy");
    if (r->slots != r->first_slots) smi_meta_free(r->slots, r->slot_count * sizeof(void *));
}

static size_t smi_recycler_check(const smi_object *object, const char *call) {
    const sagemem_recycler *r = (const sagemem_recycler *)object;
    smi_check_ctx c = {call, 0};
    for (size_t i = 0; i < r->slot_count; i++)
        for (const smi_recycler_buffer *b = r->slots[i]; b != NULL; b = b->chain) {
            char text[SMI_WHY + 40];
            smi_ref ref;
            sagemem_status status = smi_resolve(b->block, &ref, text, sizeof text);
            if (status == SAGEMEM_E_CORRUPT) continue; /* the heap's walker has said so */
            if (status == SAGEMEM_OK && b->released != 0) status = smi_recycler_untouched(r, b, &ref, text, sizeof text);
            if (status != SAGEMEM_OK) smi_damage(&c, text);
        }
    return c.damaged;
}

static const smi_object_kind smi_recycler_kind = {"recycler", sizeof(sagemem_recycler), smi_recycler_end, smi_recycler_check};

static bool smi_recycler_desc_good(sagemem_recycler_desc *d, const char *call) {
    if (d->alignment < 16 && (d->alignment & (d->alignment - 1)) == 0) d->alignment = 16;
    if (d->slack == 0) d->slack = 2;
    if (d->max_idle_count == 0) d->max_idle_count = 1024;
    if (d->max_idle_bytes == 0) d->max_idle_bytes = UINT64_MAX;
    if ((d->alignment & (d->alignment - 1)) != 0 || d->alignment > 4096)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "alignment %zu is no power of two up to 4096; 64 is a cache line, 4096 a page",
                 d->alignment);
    else if (!(d->slack >= 1)) /* NaN, too */
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "slack is %g; it must be 1 (buffers of just the size) or more, 0 for 2", d->slack);
    else return smi_tag_known(d->tag, call);
    return false;
}

SAGEMEM_API sagemem_recycler *sagemem_recycler_create(const sagemem_recycler_desc *desc) {
    const char *call = "sagemem_recycler_create";
    sagemem_recycler_desc d;
    memset(&d, 0, sizeof d);
    if (desc != NULL) d = *desc;
    if (!smi_recycler_desc_good(&d, call)) return NULL;
    sagemem_recycler *r = (sagemem_recycler *)smi_object_create(d.heap, &smi_recycler_kind, d.name, call);
    if (r == NULL) return NULL;
    r->desc = d;
    r->desc.heap = r->object.domain->base;
    r->desc.name = smi_recycler_name(r);
    r->slots = r->first_slots;
    r->slot_count = SMI_RECYCLER_SLOTS;
    smi_object_leave(&r->object);
    return r;
}

SAGEMEM_API sagemem_status sagemem_recycler_get_desc(const sagemem_recycler *recycler, sagemem_recycler_desc *out) {
    const char *call = "sagemem_recycler_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_recycler_desc");
    if (!smi_object_enter(recycler, &smi_recycler_kind, call)) return smi_mine.error.status;
    *out = recycler->desc;
    if (out->max_idle_bytes == UINT64_MAX) out->max_idle_bytes = 0; /* no limit, as it was said */
    smi_object_leave(&recycler->object);
    return SAGEMEM_OK;
}

/* A new block is the recycler's. That its address is known already shows what happened to the buffer that was there. */
static void *smi_recycler_adopt(sagemem_recycler *r, smi_recycler_buffer *b, void *block, const char *call) {
    smi_recycler_buffer *former = smi_recycler_find(r, block);
    if (former != NULL) {
        size_t size = former->size;
        smi_recycler_forget(r, former);
        smi_meta_free(b, sizeof *b);
        smi_free(block, smi_nowhere, call);
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
                  "buffer %p (%zu bytes) of recycler '%s' was freed by another call; give buffers back by sagemem_recycler_release",
                  block, size, smi_recycler_name(r));
        return NULL;
    }
    if (r->stats.idle_buffers + r->stats.out_buffers >= r->slot_count) smi_recycler_widen(r, call);
    smi_recycler_buffer **slot = smi_recycler_slot(r, block);
    b->block = block;
    b->size = sagemem_size(block);
    b->chain = *slot;
    *slot = b;
    smi_recycler_out(r, b);
    r->stats.misses++;
    return block;
}

/* One attempt at a block without asking anybody to give memory back. */
static void *smi_recycler_try(const sagemem_recycler *r, size_t size, const char *call) {
    bool zeroed;
    void *block = smi_domain_alloc(r->object.domain, r->desc.alignment, size, r->desc.tag, smi_nowhere, &zeroed, call);
    if (block != NULL && !zeroed && (r->desc.heap->flags & SAGEMEM_HEAP_ZERO) != 0) memset(block, 0, sagemem_size(block));
    return block;
}

/* All that the heap can do. A reclaimer may want this heap, or trim this recycler: a shared heap is unlocked. */
static void *smi_recycler_insist(const sagemem_recycler *r, size_t size, const char *call) {
    smi_leave(r->desc.heap);
    void *block = smi_object_alloc(&r->object, r->desc.alignment, size, r->desc.tag, false, call);
    return smi_enter(r->desc.heap, call) != NULL ? block : NULL;
}

/* A buffer from the heap. What lies idle goes before reclaimers are asked, and before a heap that aborts does so. */
static void *smi_recycler_fresh(sagemem_recycler *r, size_t size, const char *call) {
    for (bool again = r->oldest != NULL;; again = false) {
        smi_recycler_buffer *b = (smi_recycler_buffer *)smi_object_meta(&r->object, sizeof *b, call);
        void *block = NULL;
        if (b != NULL) block = again ? smi_recycler_try(r, size, call) : smi_recycler_insist(r, size, call);
        if (block != NULL) return smi_recycler_adopt(r, b, block, call);
        smi_meta_free(b, sizeof *b);
        sagemem_status status = smi_mine.error.status;
        if (!again || (status != SAGEMEM_E_LIMIT && status != SAGEMEM_E_NOMEM)) return NULL;
        smi_recycler_drop_idle(r, call);
    }
}

static void *smi_recycler_reuse(sagemem_recycler *r, smi_recycler_buffer **link, const char *call) {
    smi_recycler_buffer *b = *link;
    bool good = smi_recycler_intact(r, b, call);
    if (!good) {
        smi_recycler_forget(r, b);
        return NULL;
    }
    const smi_domain *d = r->object.domain;
    smi_recycler_unidle(r, link);
    smi_recycler_out(r, b);
    r->stats.hits++;
    if (smi_checked(d)) smi_fill_quiet((char *)b->block, SMI_FILL_NEW, b->size);
    smi_watch_fresh(b->block, b->size);
    if ((d->flags & SAGEMEM_HEAP_ZERO) != 0) memset(b->block, 0, b->size);
    return b->block;
}

SAGEMEM_API void *sagemem_recycler_acquire(sagemem_recycler *recycler, size_t size) {
    const char *call = "sagemem_recycler_acquire";
    if (!smi_object_enter(recycler, &smi_recycler_kind, call)) return NULL;
    smi_recycler_buffer **fit = smi_recycler_fit(recycler, size);
    void *block = fit != NULL ? smi_recycler_reuse(recycler, fit, call) : smi_recycler_fresh(recycler, size, call);
    smi_object_leave(&recycler->object);
    return block;
}

/* Not a buffer that is out: which kind of misuse it is. */
static void smi_recycler_refuse(const sagemem_recycler *r, const smi_recycler_buffer *b, const void *buffer, const char *call) {
    char text[SMI_WHY + 40];
    smi_ref ref;
    if (b != NULL)
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
                  "buffer %p (%zu bytes) of recycler '%s' was released already; look for a second release of it", buffer, b->size,
                  smi_recycler_name(r));
    else if (smi_resolve(buffer, &ref, text, sizeof text) == SAGEMEM_E_STALE)
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call, "%s", text); /* released once before, and freed since */
    else
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call, "%p is no buffer of recycler '%s'; give it back to what it came from",
                  buffer, smi_recycler_name(r));
}

/* Keeps a buffer for later, and no more than may be kept. */
static void smi_recycler_keep(sagemem_recycler *r, smi_recycler_buffer *b, const char *call) {
    if (b->size > r->desc.max_idle_bytes) { /* alone too much: the others stay */
        smi_recycler_drop(r, b, call);
        return;
    }
    smi_recycler_back(r, b);
    if (smi_checked(r->object.domain)) smi_fill_quiet((char *)b->block, SMI_FILL_FREED, b->size);
    smi_watch_shut(b->block, b->size);
    smi_recycler_idle(r, b);
    while (r->stats.idle_buffers > r->desc.max_idle_count || r->stats.idle_bytes > r->desc.max_idle_bytes)
        smi_recycler_drop(r, r->oldest, call);
}

SAGEMEM_API void sagemem_recycler_release(sagemem_recycler *recycler, void *buffer) {
    const char *call = "sagemem_recycler_release";
    if (buffer == NULL || !smi_object_enter(recycler, &smi_recycler_kind, call)) return;
    smi_recycler_buffer *b = smi_recycler_find(recycler, buffer);
    smi_ref ref;
    if (b == NULL || b->released != 0) {
        smi_recycler_refuse(recycler, b, buffer, call);
    } else if (smi_resolve_or_fault(buffer, &ref, call) == SAGEMEM_OK) {
        recycler->stats.out_bytes += ref.size - b->size; /* resized where it lies: no harm */
        b->size = ref.size;
        smi_recycler_keep(recycler, b, call);
    } else if (smi_mine.error.status != SAGEMEM_E_CORRUPT) {
        smi_recycler_forget(recycler, b); /* it was freed by another call */
    }
    smi_object_leave(&recycler->object);
}

SAGEMEM_API uint64_t sagemem_recycler_trim(sagemem_recycler *recycler) {
    const char *call = "sagemem_recycler_trim";
    if (!smi_object_enter(recycler, &smi_recycler_kind, call)) return 0;
    uint64_t bytes = smi_recycler_drop_idle(recycler, call);
    smi_object_leave(&recycler->object);
    return bytes;
}

SAGEMEM_API sagemem_status sagemem_recycler_get_stats(const sagemem_recycler *recycler, sagemem_recycler_stats *out) {
    const char *call = "sagemem_recycler_get_stats";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_recycler_stats");
    if (!smi_object_enter(recycler, &smi_recycler_kind, call)) return smi_mine.error.status;
    *out = recycler->stats;
    smi_object_leave(&recycler->object);
    return SAGEMEM_OK;
}

SAGEMEM_API void sagemem_recycler_destroy(sagemem_recycler *recycler) {
    if (recycler == NULL || !smi_object_enter(recycler, &smi_recycler_kind, "sagemem_recycler_destroy")) return;
    smi_domain *heap = recycler->desc.heap;
    smi_object_end(&recycler->object);
    smi_leave(heap); /* not before: the list of a shared heap's objects is changed */
}

#endif /* SAGEMEM_WITH_POOL */

/* ==========================================================================
 * >>arena  Chunks that are only ever filled from the front.
 * ========================================================================== */

/* -- A checksum for what is read back: CRC-32C (Castagnoli, Braeuer, Herrmann 1993; the parameters of RFC 3720, appendix B),
 *    eight bytes at a time from eight tables (slicing-by-8, Kounavis and Berry 2005). Of every layer that writes. */

static uint32_t smi_crc_table[8][256];
static bool smi_crc_ready;

SMI_FOR_LAYERS void smi_crc_prepare(void) {
    smi_lock_take(&smi_meta_lock);
    for (uint32_t i = 0; !smi_crc_ready && i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0); /* the polynomial, reflected */
        smi_crc_table[0][i] = crc;
    }
    for (int k = 1; !smi_crc_ready && k < 8; k++)
        for (int i = 0; i < 256; i++) {
            uint32_t before = smi_crc_table[k - 1][i];
            smi_crc_table[k][i] = before >> 8 ^ smi_crc_table[0][before & 0xFF];
        }
    SMI_STORE_RELEASE(&smi_crc_ready, true); /* with it the tables are seen by who reads it in smi_crc32c */
    smi_lock_give(&smi_meta_lock);
}

/* Of these bytes, behind those whose checksum is `crc`; 0: behind none. */
SMI_FOR_LAYERS uint32_t smi_crc32c(uint32_t crc, const void *data, size_t size) {
    if (SMI_UNLIKELY(!SMI_LOAD_ACQUIRE(&smi_crc_ready))) smi_crc_prepare();
    const unsigned char *p = (const unsigned char *)data;
    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = smi_crc_table[7][low & 0xFF] ^ smi_crc_table[6][low >> 8 & 0xFF] ^ smi_crc_table[5][low >> 16 & 0xFF] ^
              smi_crc_table[4][low >> 24] ^ smi_crc_table[3][p[4]] ^ smi_crc_table[2][p[5]] ^ smi_crc_table[1][p[6]] ^
              smi_crc_table[0][p[7]];
    }
    for (; size > 0; size--, p++) crc = crc >> 8 ^ smi_crc_table[0][(crc ^ *p) & 0xFF];
    return ~crc;
}

#if SAGEMEM_WITH_ARENA

/* The chunks in use come first in the table, in the order in which they came into use, then the spare ones. What is small
 * comes from the current chunk, the last in use that was not made for one thing alone: those do not end it.
 *
 *     number    1          2       3          4       5      |
 *     chunks    ordinary   own     ordinary   own     own    |  ordinary  ordinary
 *                                  current            last   |  spare
 *
 *     a chunk   | guard, 16 | handed out, front to back      | room            |
 *               block       start                            at                end
 *
 * A position is (number of chunks in use) << 32 | (bytes handed out of the current one): it grows with every allocation and
 * says all that a rewind needs. The guard is there so that nothing handed out is the start of a block: sagemem_free of it
 * is seen; and it shows what was written in front of the first thing. What is padding is zero: an image holds nothing
 * else. Blocks begin at multiples of 64, so that what was aligned up to that is so again in an arena that was loaded.
 *
 * Which marks were rewound past: each rewind below the highest mark that is good gets a serial number, and a mark has that
 * of its time. A mark is good if no later rewind went below it, so of the rewinds only those matter that no later one went
 * below or to: a stack, in which places grow with time, and the first one after the mark's time decides. */
enum {
    SMI_ARENA_GUARD = 16,
    SMI_ARENA_ALIGN = 64,
    SMI_ARENA_GAP = 16,     /* behind each allocation where a tool is to see its end */
    SMI_ARENA_REWINDS = 32, /* of the stack; one more pushes out the oldest, and with it what only that one knew */
    SMI_ARENA_TABLE = 8,    /* entries of the first table */
    SMI_ARENA_COPY = 4096
};

typedef struct smi_arena_chunk {
    char *block;
    size_t size;      /* of the block, as asked for: a multiple of 16 */
    size_t used;      /* bytes handed out, padding included; of the current chunk at - start, and this is old */
    uint32_t current; /* number of the current chunk while this is the last in use; 0: none */
    bool own;         /* made for one thing, or loaded: goes with it */
} smi_arena_chunk;

typedef struct smi_arena_rewind {
    uint64_t serial, position;
} smi_arena_rewind;

struct sagemem_arena {
    smi_object object;
    char *at, *end, *start; /* of the current chunk; all the same when there is none */
    uint32_t current;       /* its number; 0: none */
    uint32_t count, total;  /* chunks in use; and spare */
    uint32_t room;          /* entries of the table */
    smi_arena_chunk *chunks;
    bool plain; /* the short paths: neither zeroing nor a tool that watches */
    bool zero;
    sagemem_tag tag;
    size_t chunk_bytes;
    uint64_t max_bytes;
    uint64_t below;                              /* bytes used in all chunks but the current one */
    uint64_t peak, held;                         /* peak: of used, at the rewinds so far */
    uint64_t born, serial;                       /* of the first rewind - 1: no other arena's; of the last one */
    uint64_t highest;                            /* no good mark has a higher position */
    smi_arena_rewind rewinds[SMI_ARENA_REWINDS]; /* oldest first: serials and positions both grow */
    uint32_t rewind_count;
};

static smi_u64 smi_arenas_made;

static const char *smi_arena_name(const sagemem_arena *a) { return smi_object_name(&a->object); }
static char *smi_arena_start(const smi_arena_chunk *c) { return c->block + SMI_ARENA_GUARD; }
static uint64_t smi_arena_used(const sagemem_arena *a) { return a->below + (uint64_t)(a->at - a->start); }
static uint64_t smi_arena_position(const sagemem_arena *a) { return (uint64_t)a->count << 32 | (uint64_t)(a->at - a->start); }
static size_t smi_arena_used_of(const sagemem_arena *a, uint32_t number) {
    return number == a->current ? (size_t)(a->at - a->start) : a->chunks[number - 1].used;
}

/* -- Chunks ------------------------------------------------------------------------------------------------------ */

static uint64_t smi_arena_guard(const char *block) { return ((uint64_t)(uintptr_t)block ^ smi_secret) * SMI_MIX; }
static bool smi_arena_intact(const smi_arena_chunk *c) {
    return smi_get(c->block) == smi_arena_guard(c->block) && smi_get(c->block + 8) == ~smi_arena_guard(c->block);
}

static bool smi_arena_table_grow(sagemem_arena *a, const char *call) {
    uint32_t room = a->room > 0 ? 2 * a->room : (uint32_t)SMI_ARENA_TABLE;
    size_t bytes;
    if (room <= a->room || __builtin_mul_overflow(room, sizeof *a->chunks, &bytes)) {
        smi_fail(SAGEMEM_E_FULL, 0, call, "arena '%s' has %u chunks, and refs have no larger numbers; raise chunk_bytes (%zu)",
                 smi_arena_name(a), a->total, a->chunk_bytes);
        return false;
    }
    smi_arena_chunk *fresh = (smi_arena_chunk *)smi_object_meta(&a->object, bytes, call);
    if (fresh == NULL) return false;
    if (a->total > 0) memcpy(fresh, a->chunks, a->total * sizeof *fresh);
    smi_meta_free(a->chunks, a->room * sizeof *fresh);
    a->chunks = fresh;
    a->room = room;
    return true;
}

/* A block of that size, as the last chunk of the table. */
static bool smi_arena_chunk_add(sagemem_arena *a, size_t size, bool own, const char *call) {
    if (a->max_bytes != 0 && (a->held > a->max_bytes || size > a->max_bytes - a->held)) {
        smi_fail(SAGEMEM_E_FULL, 0, call,
                 "arena '%s' holds %llu bytes and its max_bytes is %llu: a chunk of %zu is over it; rewind or reset the arena, or "
                 "raise max_bytes",
                 smi_arena_name(a), (unsigned long long)a->held, (unsigned long long)a->max_bytes, size);
        return false;
    }
    char *block = (char *)smi_object_alloc(&a->object, SMI_ARENA_ALIGN, size, a->tag, false, call);
    if (block == NULL) return false;
    if (a->total == a->room && !smi_arena_table_grow(a, call)) { /* only now: a reclaimer may have used the arena */
        smi_free(block, smi_nowhere, call);
        return false;
    }
    if (smi_watched) smi_watch_shut(block, sagemem_size(block));
    smi_set(block, smi_arena_guard(block));
    smi_set(block + 8, ~smi_arena_guard(block));
    smi_arena_chunk *c = &a->chunks[a->total++];
    c->block = block;
    c->size = size;
    c->used = 0;
    c->own = own;
    a->held += size;
    return true;
}

/* The block goes to the heap; the table is the caller's affair, and consistent: a fault handler may jump away. */
static void smi_arena_chunk_free(sagemem_arena *a, smi_arena_chunk c, const char *call) {
    bool intact = smi_arena_intact(&c);
    a->held -= c.size;
    if (smi_watched) smi_watch_open(c.block, sagemem_size(c.block));
    smi_free(c.block, smi_nowhere, call);
    if (!intact)
        smi_fault(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call,
                  "chunk %p of arena '%s' (tag '%s') was written to in front of the first thing in it; look for an index below 0",
                  (void *)c.block, smi_arena_name(a), sagemem_tag_name(a->tag));
}

static uint64_t smi_arena_spares_free(sagemem_arena *a, const char *call) {
    uint64_t before = a->held;
    while (a->total > a->count) smi_arena_chunk_free(a, a->chunks[--a->total], call);
    return before - a->held;
}

/* A new chunk of `wanted` bytes at the end of the table. Where that is not to be had, without spare chunks, or of `least`. */
static bool smi_arena_chunk_make(sagemem_arena *a, size_t least, size_t wanted, bool own, const char *call) {
    if (a->max_bytes > a->held && wanted > a->max_bytes - a->held) wanted = (size_t)(a->max_bytes - a->held) & ~(size_t)15;
    if (wanted < least) wanted = least;
    if (smi_arena_chunk_add(a, wanted, own, call)) return true;
    if (smi_mine.error.status == SAGEMEM_E_ARGUMENT) return false;
    if (smi_arena_spares_free(a, call) > 0 && smi_arena_chunk_add(a, wanted, own, call)) return true;
    return wanted > least && smi_arena_chunk_add(a, least, own, call);
}

/* There is no current chunk any more: what it has in use counts as that of others does. */
static void smi_arena_close(sagemem_arena *a) {
    if (a->current != 0) a->chunks[a->current - 1].used = (size_t)(a->at - a->start);
    a->below += (uint64_t)(a->at - a->start);
    a->current = 0;
    a->at = a->end = a->start = (char *)a;
}

/* A chunk in use becomes the current one (0: none does), with that many bytes in use. Behind smi_arena_close. */
static void smi_arena_open(sagemem_arena *a, uint32_t number, size_t used) {
    if (number == 0) return;
    const smi_arena_chunk *c = &a->chunks[number - 1];
    a->below -= c->used;
    a->current = number;
    a->start = smi_arena_start(c);
    a->at = a->start + used;
    a->end = c->block + c->size;
    if (smi_watched) smi_watch_shut(a->at, (size_t)(a->end - a->at));
}

/* One more chunk is in use, with room for `need` bytes: one of its own, or the current one from now on. */
static bool smi_arena_chunk_next(sagemem_arena *a, size_t need, bool own, const char *call) {
    uint32_t found = a->count;
    while (!own && found < a->total && a->chunks[found].size - SMI_ARENA_GUARD < need) found++;
    if (own || found == a->total) {
        size_t least = need + SMI_ARENA_GUARD;
        if (!smi_arena_chunk_make(a, least, own ? least : a->chunk_bytes, own, call)) return false;
        found = a->total - 1;
    }
    smi_arena_chunk next = a->chunks[found];
    a->chunks[found] = a->chunks[a->count];
    next.used = 0;
    next.current = own ? a->current : a->count + 1;
    a->chunks[a->count++] = next;
    if (own) return true;
    smi_arena_close(a);
    smi_arena_open(a, a->count, 0);
    return true;
}

/* -- What is handed out -------------------------------------------------------------------------------------------- */

static size_t smi_arena_padding(const char *at, size_t alignment) { return (size_t)(0 - (uintptr_t)at) & (alignment - 1); }

/* Padding, a thing and a gap behind it, in room that nobody has seen: the tools are told, and what must be zero is. */
static void smi_arena_lay(char *from, size_t padding, size_t size, size_t gap, bool zero) {
    if (smi_watched) smi_watch_fresh(from, padding + size + gap);
    memset(from, 0, padding);
    if (zero) memset(from + padding, 0, size);
    memset(from + padding + size, 0, gap);
    if (!smi_watched) return;
    smi_watch_shut(from, padding);
    smi_watch_shut(from + padding + size, gap);
}

/* The long way to `size` bytes at a multiple of `alignment`: where they are, and the number of their chunk. An allocation
 * gets a gap behind it where a tool watches and there is room: that makes nothing fail that would not fail otherwise. */
static char *smi_arena_give(sagemem_arena *a, size_t size, size_t alignment, bool gapped, uint32_t *number, const char *call) {
    size_t slack = alignment > 16 ? alignment - 16 : 0, need; /* a chunk starts at a multiple of 16 */
    if (size > SIZE_MAX - SMI_GRANULE) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are more than an address can count; check how the number was computed",
                 size);
        return NULL;
    }
    need = (size + slack + 15) & ~(size_t)15;
    size_t padding = smi_arena_padding(a->at, alignment), room = (size_t)(a->end - a->at);
    bool fits = a->current != 0 && padding <= room && size <= room - padding, own = !fits && need > a->chunk_bytes / 4;
    if (!fits && !smi_arena_chunk_next(a, need, own, call)) return NULL;
    smi_arena_chunk *c = &a->chunks[a->count - 1];
    char *from = own ? smi_arena_start(c) : a->at, *end = own ? c->block + c->size : a->end;
    padding = smi_arena_padding(from, alignment);
    char *at = from + padding;
    size_t left = (size_t)(end - at) - size, gap = gapped && smi_watched ? (size_t)SMI_ARENA_GAP : 0;
    if (gap > left) gap = left;
    smi_arena_lay(from, padding, size, gap, a->zero && (!own || smi_watched)); /* one of its own is new, and zero */
    *number = own ? a->count : a->current;
    if (own) a->below += c->used = padding + size + gap;
    else a->at = at + size + gap;
    return at;
}

/* -- Marks and rewinds ----------------------------------------------------------------------------------------------- */

/* Good marks above `position` are past from now on. */
static void smi_arena_remember(sagemem_arena *a, uint64_t position) {
    while (a->rewind_count > 0 && a->rewinds[a->rewind_count - 1].position >= position) a->rewind_count--;
    if (a->rewind_count == SMI_ARENA_REWINDS) memmove(a->rewinds, a->rewinds + 1, --a->rewind_count * sizeof a->rewinds[0]);
    smi_arena_rewind last = {++a->serial, position};
    a->rewinds[a->rewind_count++] = last;
    a->highest = position;
}

static bool smi_arena_mark_good(const sagemem_arena *a, sagemem_arena_mark mark, const char *call) {
    if (mark.serial - a->born > a->serial - a->born) {
        smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
                  "no mark of arena '%s'; pass what sagemem_arena_get_mark returned for it", smi_arena_name(a));
        return false;
    }
    uint32_t i = 0;
    while (i < a->rewind_count && a->rewinds[i].serial <= mark.serial) i++;
    bool past = i < a->rewind_count && a->rewinds[i].position < mark.position;
    uint32_t count = (uint32_t)(mark.position >> 32), current = count > 0 && count <= a->count ? a->chunks[count - 1].current : 0;
    size_t used = current > 0 ? smi_arena_used_of(a, current) : 0;
    if (!past && count <= a->count && (uint32_t)mark.position <= used) return true;
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
              "the mark was rewound past: arena '%s' was at a mark before it, or reset, since it was taken; take a new one",
              smi_arena_name(a));
    return false;
}

/* A position that the arena was at: what came after it goes. */
static void smi_arena_back(sagemem_arena *a, uint64_t position, const char *call) {
    uint32_t count = (uint32_t)(position >> 32), current = count > 0 ? a->chunks[count - 1].current : 0;
    uint64_t used = smi_arena_used(a);
    if (used > a->peak) a->peak = used;
    if (a->highest > position) smi_arena_remember(a, position);
    smi_arena_close(a);
    while (a->count > count) { /* the last becomes the first spare one, or its place is the last spare one's */
        smi_arena_chunk last = a->chunks[--a->count];
        a->below -= last.used;
        if (last.own) {
            a->chunks[a->count] = a->chunks[--a->total];
            smi_arena_chunk_free(a, last, call);
        } else if (smi_watched) {
            smi_watch_shut(smi_arena_start(&last), last.size - SMI_ARENA_GUARD);
        }
    }
    smi_arena_open(a, current, (uint32_t)position);
}

/* -- The arena as an object of its heap -------------------------------------------------------------------------------- */

static void smi_arena_end(smi_object *o) {
    sagemem_arena *a = (sagemem_arena *)o;
    a->count = 0;
    smi_arena_spares_free(a, "sagemem_arena_destroy");
    smi_meta_free(a->chunks, a->room * sizeof *a->chunks);
    a->chunks = NULL;
    a->room = 0;
}

static size_t smi_arena_check(const smi_object *o, const char *call) {
    const sagemem_arena *a = (const sagemem_arena *)o;
    smi_check_ctx c = {call, 0};
    char text[SMI_WHY + 120];
    for (uint32_t i = 0; i < a->total; i++) {
        if (smi_arena_intact(&a->chunks[i])) continue;
        smi_text(text, sizeof text, "chunk %u (%p) of arena '%s' (tag '%s') was written to in front of the first thing in it",
                 i + 1, (void *)a->chunks[i].block, smi_arena_name(a), sagemem_tag_name(a->tag));
        smi_damage(&c, text);
    }
    return c.damaged;
}

static const smi_object_kind smi_arena_kind = {"arena", sizeof(sagemem_arena), smi_arena_end, smi_arena_check};

/* What smi_object_enter finds, in line. An arena's structure stays readable when it has ended: its domain is then the
 * process, which has no owner. */
SMI_INLINE bool smi_arena_known(const sagemem_arena *a) {
    return smi_lookup(a) == &smi_meta_page && ((uintptr_t)a & 63) == 0 && a->object.kind == &smi_arena_kind;
}
SMI_INLINE bool smi_arena_mine(const sagemem_arena *a) {
    return smi_arena_known(a) && a->plain && SMI_LOAD(&a->object.domain->base->owner) == smi_self();
}
SMI_INLINE bool smi_arena_enter(const sagemem_arena *a, const char *call) {
    return SMI_LIKELY(smi_arena_mine(a)) || smi_object_enter(a, &smi_arena_kind, call);
}

static bool smi_arena_desc_good(const sagemem_arena_desc *desc, const char *call) {
    if (desc->chunk_bytes != 0 && (desc->chunk_bytes < 1024 || desc->chunk_bytes > (size_t)1 << 30))
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "chunk_bytes is %zu: 1 KiB to 1 GiB, or 0 for 64 KiB", desc->chunk_bytes);
    else return smi_tag_known(desc->tag, call);
    return false;
}

/* An empty arena by a desc that is good; entered, as by smi_object_create. */
static sagemem_arena *smi_arena_new(const sagemem_arena_desc *desc, size_t chunk_bytes, const char *call) {
    sagemem_arena *a = (sagemem_arena *)smi_object_create(desc->heap, &smi_arena_kind, desc->name, call);
    if (a == NULL) return NULL;
    a->at = a->end = a->start = (char *)a;
    a->zero = (a->object.domain->base->flags & SAGEMEM_HEAP_ZERO) != 0;
    a->plain = !a->zero && !smi_watched;
    a->tag = desc->tag;
    a->chunk_bytes = (chunk_bytes + 15) & ~(size_t)15;
    a->max_bytes = desc->max_bytes;
    a->born = a->serial = (__atomic_fetch_add(&smi_arenas_made, 1, __ATOMIC_RELAXED) + 1) << 40; /* 2^40 rewinds for each */
    return a;
}

static void smi_arena_finish(sagemem_arena *a) {
    smi_domain *heap = a->object.domain->base;
    smi_object_end(&a->object);
    smi_leave(heap);
}

static const sagemem_arena_desc smi_arena_defaults = {NULL, 0, NULL, 0, 0};
enum { SMI_ARENA_CHUNK_BYTES = 65536 };

SAGEMEM_API sagemem_arena *sagemem_arena_create(const sagemem_arena_desc *desc) {
    const char *call = "sagemem_arena_create";
    if (desc == NULL) desc = &smi_arena_defaults;
    if (!smi_arena_desc_good(desc, call)) return NULL;
    sagemem_arena *a = smi_arena_new(desc, desc->chunk_bytes != 0 ? desc->chunk_bytes : (size_t)SMI_ARENA_CHUNK_BYTES, call);
    if (a != NULL) smi_object_leave(&a->object);
    return a;
}

SAGEMEM_API sagemem_status sagemem_arena_get_desc(const sagemem_arena *arena, sagemem_arena_desc *out) {
    const char *call = "sagemem_arena_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_arena_desc");
    if (!smi_arena_enter(arena, call)) return smi_mine.error.status;
    out->heap = arena->object.domain->base;
    out->tag = arena->tag;
    out->name = smi_arena_name(arena);
    out->chunk_bytes = arena->chunk_bytes;
    out->max_bytes = arena->max_bytes;
    smi_object_leave(&arena->object);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_arena_get_stats(const sagemem_arena *arena, sagemem_arena_stats *out) {
    const char *call = "sagemem_arena_get_stats";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_arena_stats");
    if (!smi_arena_enter(arena, call)) return smi_mine.error.status;
    out->used = smi_arena_used(arena);
    out->peak_used = out->used > arena->peak ? out->used : arena->peak;
    out->held = arena->held;
    out->chunks = arena->total;
    smi_object_leave(&arena->object);
    return SAGEMEM_OK;
}

SMI_NOINLINE void *smi_arena_alloc_slow(sagemem_arena *a, size_t size, size_t alignment, const char *call) {
    if (!smi_object_enter(a, &smi_arena_kind, call)) return NULL;
    uint32_t number;
    char *at = smi_arena_give(a, size > 0 ? size : 1, alignment, true, &number, call);
    smi_object_leave(&a->object);
    return at;
}

SAGEMEM_API void *sagemem_arena_alloc(sagemem_arena *arena, size_t size) {
    if (SMI_LIKELY(smi_arena_mine(arena))) {
        char *at = arena->at + smi_arena_padding(arena->at, 16);
        if (SMI_LIKELY(size - 1 < (size_t)(arena->end - at))) { /* not for 0 */
            memset(arena->at, 0, 16);                           /* the padding: not past what may be used, which ends at 16s */
            arena->at = at + size;
            return at;
        }
    }
    return smi_arena_alloc_slow(arena, size, 16, "sagemem_arena_alloc");
}

SAGEMEM_API void *sagemem_arena_alloc_aligned(sagemem_arena *arena, size_t size, size_t alignment) {
    const char *call = "sagemem_arena_alloc_aligned";
    if (SMI_UNLIKELY(alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > 4096)) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "alignment %zu is no power of two up to 4096; 64 is a cache line, 4096 a page",
                 alignment);
        return NULL;
    }
    if (SMI_LIKELY(smi_arena_mine(arena))) {
        size_t padding = smi_arena_padding(arena->at, alignment), room = (size_t)(arena->end - arena->at);
        if (SMI_LIKELY(size - 1 < room && padding <= room - size)) {
            char *at = arena->at + padding;
            memset(arena->at, 0, padding);
            arena->at = at + size;
            return at;
        }
    }
    return smi_arena_alloc_slow(arena, size, alignment, call);
}

SMI_NOINLINE sagemem_arena_ref smi_arena_put_slow(sagemem_arena *a, const void *data, size_t size) {
    const char *call = "sagemem_arena_put";
    sagemem_arena_ref ref = {0, 0, 0};
    if (!smi_object_enter(a, &smi_arena_kind, call)) return ref;
    uint32_t number = 0;
    char *at = NULL;
    if (data == NULL && size > 0) smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "data is NULL, but %zu bytes are to be copied", size);
    else at = smi_arena_give(a, size, 1, false, &number, call);
    if (at != NULL) {
        if (size > 0) memcpy(at, data, size);
        ref.chunk = number;
        ref.offset = (uint32_t)(at - smi_arena_start(&a->chunks[number - 1]));
        ref.length = size;
    }
    smi_object_leave(&a->object);
    return ref;
}

SAGEMEM_API sagemem_arena_ref sagemem_arena_put(sagemem_arena *arena, const void *data, size_t size) {
    if (SMI_UNLIKELY(!smi_arena_mine(arena) || data == NULL || size - 1 >= (size_t)(arena->end - arena->at)))
        return smi_arena_put_slow(arena, data, size);
    sagemem_arena_ref ref = {arena->current, (uint32_t)(arena->at - arena->start), size};
    memcpy(arena->at, data, size);
    arena->at += size;
    return ref;
}

SAGEMEM_API const void *sagemem_arena_get(const sagemem_arena *arena, sagemem_arena_ref ref, size_t *size) {
    const char *call = "sagemem_arena_get";
    if (size != NULL) *size = 0;
    if (SMI_UNLIKELY(!smi_arena_known(arena) || arena->object.domain == &smi_process)) {
        if (smi_object_enter(arena, &smi_arena_kind, call)) smi_object_leave(&arena->object); /* no: it tells why not */
        return NULL;
    }
    if (SMI_LIKELY(ref.chunk - 1 < arena->count)) {
        size_t used = smi_arena_used_of(arena, ref.chunk);
        if (SMI_LIKELY(ref.offset <= used && ref.length <= used - ref.offset)) {
            if (size != NULL) *size = (size_t)ref.length;
            return smi_arena_start(&arena->chunks[ref.chunk - 1]) + ref.offset;
        }
    }
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
             "ref {chunk %u, offset %u, length %llu} is outside of what arena '%s' has in use; it was rewound, or is another's",
             ref.chunk, ref.offset, (unsigned long long)ref.length, smi_arena_name(arena));
    return NULL;
}

SAGEMEM_API sagemem_arena_mark sagemem_arena_get_mark(sagemem_arena *arena) {
    sagemem_arena_mark mark = {0, 0};
    if (!smi_arena_enter(arena, "sagemem_arena_get_mark")) return mark;
    mark.position = arena->highest = smi_arena_position(arena);
    mark.serial = arena->serial;
    smi_object_leave(&arena->object);
    return mark;
}

SAGEMEM_API void sagemem_arena_rewind(sagemem_arena *arena, sagemem_arena_mark mark) {
    const char *call = "sagemem_arena_rewind";
    if (!smi_arena_enter(arena, call)) return;
    if (smi_arena_mark_good(arena, mark, call)) smi_arena_back(arena, mark.position, call);
    smi_object_leave(&arena->object);
}

SAGEMEM_API void sagemem_arena_reset(sagemem_arena *arena) {
    const char *call = "sagemem_arena_reset";
    if (!smi_arena_enter(arena, call)) return;
    smi_arena_back(arena, 0, call);
    smi_object_leave(&arena->object);
}

SAGEMEM_API uint64_t sagemem_arena_trim(sagemem_arena *arena) {
    const char *call = "sagemem_arena_trim";
    if (!smi_arena_enter(arena, call)) return 0;
    uint64_t given_back = smi_arena_spares_free(arena, call);
    smi_object_leave(&arena->object);
    return given_back;
}

SAGEMEM_API void sagemem_arena_destroy(sagemem_arena *arena) {
    if (arena != NULL && smi_object_enter(arena, &smi_arena_kind, "sagemem_arena_destroy")) smi_arena_finish(arena);
}

/* -- Images ----------------------------------------------------------------------------------------------------------
 *
 *     header 64 | record 16 | chunk 1, what is in use of it | record 16 | chunk 2 ... | end
 *
 * in the byte order of the machine, which the header names; without padding. Every version keeps the header's size, its
 * first 24 bytes and its checksum at the end, so that one that is newer is told from one that is damaged. */

typedef struct smi_arena_header {
    char magic[16];
    uint32_t version, byte_order;
    uint64_t bytes;       /* of the image */
    uint64_t chunks;      /* in use */
    uint64_t chunk_bytes; /* of the arena's desc */
    uint32_t unused[3];   /* 0 */
    uint32_t checksum;    /* of the header up to here */
} smi_arena_header;
typedef struct smi_arena_record {
    uint64_t used;          /* bytes that follow */
    uint32_t data_checksum; /* of these */
    uint32_t checksum;      /* of the record up to here, behind the chunk's number: chunks cannot change places */
} smi_arena_record;

static const char smi_arena_magic[16] = "sagemem arena\0\0";
static const uint32_t SMI_ARENA_VERSION = 1, SMI_ARENA_ORDER = 0x01020304u;

static uint32_t smi_arena_header_sum(const smi_arena_header *h) { return smi_crc32c(0, h, offsetof(smi_arena_header, checksum)); }
static uint32_t smi_arena_record_sum(const smi_arena_record *r, uint32_t number) {
    return smi_crc32c(number, r, offsetof(smi_arena_record, checksum));
}

SMI_PEEKS static void smi_arena_copy_quiet(char *to, const char *from, size_t size) {
    smi_quiet_begin();
#ifdef __clang_analyzer__ /* it takes what a program has not written yet for a mistake of ours */
    (void)from;
    memset(to, 0, size);
#else
    for (size_t i = 0; i < size; i++) to[i] = ((const volatile char *)from)[i];
#endif
    smi_quiet_end();
}

/* Bytes of a chunk as they can be read: where a tool watches a copy of some, since it lets nobody see what lies in between. */
static const char *smi_arena_piece(char *copy, const char *at, size_t *size) {
    if (!smi_watched) return at;
    if (*size > SMI_ARENA_COPY) *size = SMI_ARENA_COPY;
    smi_arena_copy_quiet(copy, at, *size);
    return copy;
}

static uint32_t smi_arena_data_sum(const char *at, size_t size) {
    char copy[SMI_ARENA_COPY];
    uint32_t sum = 0;
    smi_quiet_begin(); /* the program may not have written all of it */
    for (size_t n; size > 0; at += n, size -= n) {
        n = size;
        const char *piece = smi_arena_piece(copy, at, &n); /* changes n: not within the call */
        sum = smi_crc32c(sum, piece, n);
    }
    smi_quiet_end();
    smi_quiet_known(&sum, sizeof sum);
    return sum;
}

typedef struct smi_arena_out {
    const sagemem_sink *to;
    uint64_t offset;
} smi_arena_out;

static sagemem_status smi_arena_write(smi_arena_out *out, const void *data, size_t size) {
    char copy[SMI_ARENA_COPY];
    const char *at = (const char *)data;
    for (size_t n; size > 0; at += n, size -= n) {
        n = size;
        const char *piece = smi_arena_piece(copy, at, &n);
        sagemem_status status = out->to->write_fn(out->to->ctx, piece, n, out->offset);
        if (status != SAGEMEM_OK) return status;
        out->offset += n;
    }
    return SAGEMEM_OK;
}

static sagemem_status smi_arena_write_all(const sagemem_arena *a, smi_arena_out *out) {
    smi_arena_header header;
    memset(&header, 0, sizeof header);
    memcpy(header.magic, smi_arena_magic, sizeof header.magic);
    header.version = SMI_ARENA_VERSION;
    header.byte_order = SMI_ARENA_ORDER;
    header.bytes = sizeof header + a->count * (uint64_t)sizeof(smi_arena_record) + smi_arena_used(a);
    header.chunks = a->count;
    header.chunk_bytes = a->chunk_bytes;
    header.checksum = smi_arena_header_sum(&header);
    sagemem_status status = smi_arena_write(out, &header, sizeof header);
    for (uint32_t number = 1; status == SAGEMEM_OK && number <= a->count; number++) {
        const char *start = smi_arena_start(&a->chunks[number - 1]);
        size_t used = smi_arena_used_of(a, number);
        smi_arena_record record = {used, smi_arena_data_sum(start, used), 0};
        record.checksum = smi_arena_record_sum(&record, number);
        status = smi_arena_write(out, &record, sizeof record);
        if (status == SAGEMEM_OK) status = smi_arena_write(out, start, used);
    }
    return status;
}

SAGEMEM_API sagemem_status sagemem_arena_save(const sagemem_arena *arena, const sagemem_sink *to) {
    const char *call = "sagemem_arena_save";
    if (to == NULL || to->write_fn == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no sink, or one without write_fn: pass what takes the bytes");
    if (!smi_arena_enter(arena, call)) return smi_mine.error.status;
    smi_arena_out out = {to, 0};
    sagemem_error before = smi_mine.error;
    smi_mine.error.status = SAGEMEM_OK; /* to tell what the sink says from what was said before */
    sagemem_status status = smi_arena_write_all(arena, &out);
    if (status == SAGEMEM_OK) smi_mine.error = before;
    if (status != SAGEMEM_OK && smi_mine.error.status != status) /* else the sink has said why */
        smi_fail(status, 0, call, "the sink took no more of arena '%s' after %llu bytes (%s); save it again from the start",
                 smi_arena_name(arena), (unsigned long long)out.offset, sagemem_status_name(status));
    smi_object_leave(&arena->object);
    return status;
}

static sagemem_status smi_arena_corrupt(const char *call, const char *what, uint64_t at) {
    return smi_fail(SAGEMEM_E_CORRUPT, 0, call, "%s (at byte %llu); the file is damaged or another one, save it again", what,
                    (unsigned long long)at);
}

/* What the first bytes are the header of; nothing in it is to be believed but that it was written so. */
static sagemem_status smi_arena_header_read(smi_arena_header *h, const void *data, size_t size, const char *call) {
    if (size < sizeof *h) return smi_arena_corrupt(call, "no image of an arena, or cut short in its header", size);
    memcpy(h, data, sizeof *h);
    if (memcmp(h->magic, smi_arena_magic, sizeof h->magic) != 0) return smi_arena_corrupt(call, "no image of an arena", 0);
    bool swapped = h->byte_order == __builtin_bswap32(SMI_ARENA_ORDER);
    if (h->byte_order != SMI_ARENA_ORDER && !swapped) return smi_arena_corrupt(call, "the image's header is damaged", 20);
    if ((swapped ? __builtin_bswap32(h->checksum) : h->checksum) != smi_arena_header_sum(h))
        return smi_arena_corrupt(call, "the image's header is damaged: its checksum does not match", 60);
    if (swapped)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                        "the image was saved on a machine of the other byte order; load it on one of that kind");
    if (h->version > SMI_ARENA_VERSION)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "the image has version %u, this library reads up to %u; use a newer one",
                        h->version, SMI_ARENA_VERSION);
    if (h->bytes != size) return smi_arena_corrupt(call, "the image is cut short, or something follows it", size);
    if (h->version == 0 || h->chunk_bytes < 1024 || h->chunk_bytes > (uint64_t)1 << 30 ||
        h->chunks > (size - sizeof *h) / sizeof(smi_arena_record))
        return smi_arena_corrupt(call, "the image's header makes no sense", 24);
    return SAGEMEM_OK;
}

/* One chunk of the image from *at on. Every byte is read once: nobody can change it between the check and the use. */
static sagemem_status smi_arena_chunk_read(sagemem_arena *a, const char *data, size_t size, size_t *at, const char *call) {
    smi_arena_record record;
    if (size - *at < sizeof record) return smi_arena_corrupt(call, "the image is cut short before a chunk", *at);
    memcpy(&record, data + *at, sizeof record);
    if (record.checksum != smi_arena_record_sum(&record, a->count + 1))
        return smi_arena_corrupt(call, "the image's record of a chunk is damaged: its checksum does not match", *at);
    *at += sizeof record;
    if (record.used > size - *at || record.used > SIZE_MAX - SMI_GRANULE)
        return smi_arena_corrupt(call, "the image is cut short in a chunk", *at);
    size_t used = (size_t)record.used;
    if (!smi_arena_chunk_add(a, ((used + 15) & ~(size_t)15) + SMI_ARENA_GUARD, true, call)) return smi_mine.error.status;
    smi_arena_chunk *c = &a->chunks[a->count++];
    smi_arena_lay(smi_arena_start(c), 0, used, 0, false);
    if (used > 0) memcpy(smi_arena_start(c), data + *at, used);
    if (smi_crc32c(0, smi_arena_start(c), used) != record.data_checksum)
        return smi_arena_corrupt(call, "a chunk of the image is damaged: its checksum does not match", *at);
    *at += used;
    c->used = used;
    a->below += used;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_arena *sagemem_arena_load(const sagemem_arena_desc *desc, const void *data, size_t size) {
    const char *call = "sagemem_arena_load";
    smi_arena_header header;
    memset(&header, 0, sizeof header);
    if (desc == NULL) desc = &smi_arena_defaults;
    if (!smi_arena_desc_good(desc, call)) return NULL;
    if (data == NULL) smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "data is NULL: pass what sagemem_arena_save wrote");
    if (data == NULL || smi_arena_header_read(&header, data, size, call) != SAGEMEM_OK) return NULL;
    sagemem_arena *a = smi_arena_new(desc, desc->chunk_bytes != 0 ? desc->chunk_bytes : (size_t)header.chunk_bytes, call);
    if (a == NULL) return NULL;
    size_t at = sizeof header;
    sagemem_status status = SAGEMEM_OK;
    for (uint64_t i = 0; status == SAGEMEM_OK && i < header.chunks; i++)
        status = smi_arena_chunk_read(a, (const char *)data, size, &at, call);
    if (status == SAGEMEM_OK && at != size) status = smi_arena_corrupt(call, "something follows the image's last chunk", at);
    if (status == SAGEMEM_OK) smi_object_leave(&a->object);
    else smi_arena_finish(a);
    return status == SAGEMEM_OK ? a : NULL;
}

#endif /* SAGEMEM_WITH_ARENA */

/* ==========================================================================
 * >>array  Blocks that grow by a factor, blocks with addresses set aside, columns.
 * ========================================================================== */
#if SAGEMEM_WITH_ARRAY

/* -- Growth ------------------------------------------------------------------------------------------------------
 *
 *   data                        count                 capacity          end of the block
 *   | element | element | ... | room for more elements | less than one  |
 *
 * In a heap that zeroes, all behind the last element is zero: what is dropped is cleared then, and what the block grows by
 * comes zeroed. Where a tool looks on, all behind the last element is shut, and `capacity` is `count`, so that also the
 * typed pushes of SAGEMEM_ARRAY_OF come here to have one more opened. */

/* Bytes of the largest array: what a heap adds to a block is not more than the rest. */
static const size_t SMI_ARRAY_BYTES = SIZE_MAX / 2 - 65536;

static size_t smi_array_most(size_t element_size) { return SMI_ARRAY_BYTES / element_size; }

static bool smi_array_growth_bad(double growth, const char *call) {
    if (growth == 0 || growth > 1) return false;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "growth %g does not grow; use a factor of more than 1, or 0 for 1.5", growth);
    return true;
}

static sagemem_status smi_array_overflow(size_t count, size_t more, size_t element_size, const char *call) {
    return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                    "%zu and %zu more elements of %zu bytes are more than an address can count; check how the number was computed",
                    count, more, element_size);
}

/* The capacity to ask for when `need` elements must fit: capacity * growth, if that is more; at most `most`. Only what is
 * added passes through a double, which counts exactly to 2^53: the sum does not lose what is there. */
static size_t smi_array_larger(size_t capacity, size_t need, size_t most, double growth) {
    double more = (double)capacity * (growth - 1);
    size_t room = capacity < most ? most - capacity : 0;
    size_t extra = more < (double)room ? (size_t)more : room; /* (double)room may be rounded up to a power of two */
    if (extra > room) extra = room;
    return need > capacity + extra ? need : capacity + extra;
}

/* The factor of an array whose block is of that size. */
static double smi_array_growth(double growth, size_t bytes) { return growth != 0 ? growth : bytes < 65536 ? 2 : 1.5; }

/* Which of the sizes from `want` down to `need` to try next, before that: memory may be short of the first. */
static size_t smi_array_less(size_t want, size_t need) { return need + (want - need) / 4; }

static bool smi_array_short_of_memory(void) {
    return smi_mine.error.status == SAGEMEM_E_NOMEM || smi_mine.error.status == SAGEMEM_E_LIMIT;
}

/* The block with room for `want` elements, or for as many as memory allows, at the least `need`. NULL: the error is set, and
 * the block is as before. An attempt that another one made good leaves no error behind. */
static void *smi_array_realloc(void *data, size_t element_size, size_t need, size_t want, const char *call) {
    sagemem_error before = smi_mine.error;
    for (; want > need; want = smi_array_less(want, need)) {
        void *fresh = smi_realloc_if(data, want * element_size, SAGEMEM_TAG_SAME, smi_nowhere, true, call);
        if (fresh != NULL || !smi_array_short_of_memory()) return fresh;
        smi_mine.error = before;
    }
    return smi_realloc(data, need * element_size, SAGEMEM_TAG_SAME, smi_nowhere, call);
}

SAGEMEM_API sagemem_status sagemem_array_grow(void **data, size_t element_size, size_t *capacity, size_t min_capacity,
                                              double growth) {
    const char *call = "sagemem_array_grow";
    if (data == NULL || capacity == NULL || element_size == 0)
        return smi_fail(
            SAGEMEM_E_ARGUMENT, 0, call,
            "data %p, capacity %p, element_size %zu: pass the addresses of the array's pointer and capacity, and a size",
            (void *)data, (void *)capacity, element_size);
    if (smi_array_growth_bad(growth, call)) return SAGEMEM_E_ARGUMENT;
    if (*data == NULL && *capacity != 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "capacity is %zu, but *data is NULL; start with a capacity of 0", *capacity);
    if (min_capacity <= *capacity) return SAGEMEM_OK;
    size_t most = smi_array_most(element_size);
    if (min_capacity > most) return smi_array_overflow(*capacity, min_capacity - *capacity, element_size, call);
    void *fresh;
    if (*data == NULL) {
        fresh = smi_alloc_slow(NULL, NULL, 16, min_capacity * element_size, SAGEMEM_UNTAGGED, smi_nowhere, false, call);
    } else {
        smi_ref ref;
        if (smi_resolve_or_fault(*data, &ref, call) != SAGEMEM_OK) return smi_mine.error.status;
        size_t room = ref.size / element_size; /* it may have more than it is said to: code that starts anew at 0, say */
        if (room < *capacity)
            return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                            "the block of %zu bytes has no room for the capacity of %zu elements of %zu bytes that it is said to "
                            "have; check element_size and *capacity",
                            ref.size, *capacity, element_size);
        if (room >= min_capacity) {
            *capacity = room;
            return SAGEMEM_OK;
        }
        size_t want = smi_array_larger(room, min_capacity, most, growth == 0 ? 1.5 : growth);
        fresh = smi_array_realloc(*data, element_size, min_capacity, want, call);
    }
    if (fresh == NULL) return smi_mine.error.status;
    *data = fresh;
    *capacity = sagemem_size(fresh) / element_size;
    return SAGEMEM_OK;
}

/* -- Arrays ------------------------------------------------------------------------------------------------------ */

/* Whether what lies behind the last element of this block is kept zero. */
static bool smi_array_zeroes(const void *data) {
    const smi_page *page = smi_lookup(data);
    if (page != NULL && page->kind >= SMI_SLAB && page->kind <= SMI_HUGE) return (page->domain->flags & SAGEMEM_HEAP_ZERO) != 0;
    const smi_system_block *b = smi_system_find(data);
    return b != NULL && (b->domain->flags & SAGEMEM_HEAP_ZERO) != 0;
}

/* Elements that become the program's: zero, or undefined. */
static void smi_array_open(const void *at, size_t size, bool zeroes) {
    if (smi_watched && zeroes) smi_watch_open(at, size);
    else if (smi_watched) smi_watch_fresh(at, size);
}

/* Elements that are no longer the program's. */
static void smi_array_drop(void *at, size_t size, bool zeroes) {
    if (zeroes) memset(at, 0, size);
    if (smi_watched) smi_watch_shut(at, size);
}

/* Elements that fit, also where a tool looks on. */
static size_t smi_array_room(const sagemem_array *array) {
    smi_ref ref;
    char text[SMI_WHY + 40];
    if (!smi_watched || smi_resolve(array->data, &ref, text, sizeof text) != SAGEMEM_OK) return array->capacity;
    size_t room = ref.size / array->element_size;
    return array->stable_max > 0 && room > array->stable_max ? array->stable_max : room;
}

/* After the block has changed: notes what fits into it, and shuts what is not handed out. */
static void smi_array_settle(sagemem_array *array, void *data) {
    size_t size = sagemem_size(data), used = array->count * array->element_size, room = size / array->element_size;
    array->data = data;
    array->capacity = array->stable_max > 0 && room > array->stable_max ? array->stable_max : room;
    if (!smi_watched) return;
    array->capacity = array->count;
    smi_watch_shut((const char *)data + used, size - used);
}

static bool smi_array_bad(const sagemem_array *array, const char *call) {
    if (array != NULL && array->data != NULL && array->element_size != 0) return false;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
             array == NULL ? "array is NULL; pass the address of one" : "the array is not in use; call sagemem_array_init first");
    return true;
}

/* The block at room for `need` elements or, if memory allows, `want`: false, the error is set. */
static bool smi_array_resize_block(sagemem_array *array, size_t need, size_t want, const char *call) {
    void *data = smi_array_realloc(array->data, array->element_size, need, want, call);
    if (data != NULL) smi_array_settle(array, data);
    return data != NULL;
}

/* How many elements more than `need` a stable array takes memory for: small steps, as nothing is copied. What is held, in
 * whole pages, is at most 1/64 and 80 KiB more than what is used. */
static size_t smi_array_step(const sagemem_array *array, size_t need) {
    size_t bytes = need / 64 * array->element_size, last = need > SMI_ASIDE_HUGE / array->element_size ? SMI_HUGE_PAGE : 0;
    bytes = bytes > last + 65536 ? bytes - last : 65536;
    size_t step = bytes / array->element_size, left = array->stable_max - need;
    return step < left ? step : left;
}

/* What a stable array has taken for elements that are now pushed one by one gets its memory at once. Not where that would
 * be more than 1/16: they may be the last. */
static void smi_array_populate(const sagemem_array *array) {
    size_t used = array->count * array->element_size;
    if (array->stable_max == 0 || used < ((size_t)1 << 20) || smi_watched) return;
    char *at = (char *)(((uintptr_t)array->data + used + smi_os_page - 1) & ~(uintptr_t)(smi_os_page - 1));
    char *end = (char *)array->data + array->capacity * array->element_size;
    if (at < end && (size_t)(end - at) <= used / 16) smi_os_populate(at, (size_t)(end - at));
}

/* Room for `more` elements behind the last. */
static bool smi_array_make_room(sagemem_array *array, size_t more, const char *call) {
    size_t count = array->count, size = array->element_size, room = smi_array_room(array), most = smi_array_most(size), want;
    if (count <= room && more <= room - count) return true;
    if (array->stable_max > 0 && (count > array->stable_max || more > array->stable_max - count)) {
        smi_fail(SAGEMEM_E_FULL, 0, call, "%zu elements and %zu more are over stable_max of %zu; make the array with more", count,
                 more, array->stable_max);
        return false;
    }
    if (count > most || more > most - count) {
        smi_array_overflow(count, more, size, call);
        return false;
    }
    if (array->stable_max > 0) want = count + more + smi_array_step(array, count + more);
    else want = smi_array_larger(room, count + more, most, smi_array_growth(array->growth, room * size));
    return smi_array_resize_block(array, count + more, want, call);
}

/* The first of `more` new elements; NULL: the error is set, the array as before. */
static char *smi_array_extend(sagemem_array *array, size_t more, const char *call) {
    if (smi_array_bad(array, call) || !smi_array_make_room(array, more, call)) return NULL;
    size_t from = array->count;
    char *at = (char *)array->data + from * array->element_size;
    if (smi_watched) smi_array_open(at, more * array->element_size, smi_array_zeroes(array->data));
    array->count = from + more;
    if (smi_watched) array->capacity = array->count;
    return at;
}

static void smi_array_cut(sagemem_array *array, size_t count) {
    char *at = (char *)array->data + count * array->element_size;
    smi_array_drop(at, (array->count - count) * array->element_size, smi_array_zeroes(array->data));
    array->count = count;
    if (smi_watched) array->capacity = count;
}

static sagemem_status smi_array_desc_wrong(const sagemem_array_desc *desc, const char *call) {
    if (desc == NULL || desc->element_size == 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "an array needs desc->element_size: sizeof of what it holds");
    if (smi_array_growth_bad(desc->growth, call)) return SAGEMEM_E_ARGUMENT;
    size_t count = desc->stable_max > desc->initial_capacity ? desc->stable_max : desc->initial_capacity;
    if (count > smi_array_most(desc->element_size)) return smi_array_overflow(0, count, desc->element_size, call);
    if (desc->stable_max == 0 || desc->initial_capacity <= desc->stable_max) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "initial_capacity %zu is more than stable_max %zu; ask for less, or more",
                    desc->initial_capacity, desc->stable_max);
}

SAGEMEM_API sagemem_status sagemem_array_init(sagemem_array *array, const sagemem_array_desc *desc) {
    const char *call = "sagemem_array_init";
    if (array == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "array is NULL; pass the address of one");
    memset(array, 0, sizeof *array);
    sagemem_status status = smi_array_desc_wrong(desc, call);
    if (status != SAGEMEM_OK) return status;
    size_t size = desc->element_size, first = desc->initial_capacity;
    if (first == 0) first = size < 64 ? 64 / size : 1;
    if (desc->stable_max > 0 && first > desc->stable_max) first = desc->stable_max;
    smi_wish wish = {desc->stable_max * size, false, false};
    void *data = smi_alloc_wish(desc->heap, NULL, 16, first * size, desc->tag, smi_nowhere, wish, call);
    if (data == NULL) return smi_mine.error.status;
    array->element_size = size;
    array->growth = desc->growth;
    array->stable_max = desc->stable_max;
    smi_array_settle(array, data);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_array_get_desc(const sagemem_array *array, sagemem_array_desc *out) {
    const char *call = "sagemem_array_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_array_desc");
    if (smi_array_bad(array, call)) return SAGEMEM_E_ARGUMENT;
    smi_ref ref;
    if (smi_resolve_or_fault(array->data, &ref, call) != SAGEMEM_OK) return smi_mine.error.status;
    out->heap = ref.domain->base;
    out->tag = ref.tag;
    out->element_size = array->element_size;
    out->initial_capacity = smi_array_room(array);
    out->growth = smi_array_growth(array->growth, SIZE_MAX);
    out->stable_max = array->stable_max;
    return SAGEMEM_OK;
}

SMI_NOINLINE sagemem_status smi_array_push_slow(sagemem_array *array, const void *element) {
    const char *call = "sagemem_array_push";
    if (element == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "element is NULL: pass the address of what to append");
    if (smi_array_bad(array, call)) return SAGEMEM_E_ARGUMENT;
    uintptr_t offset = (uintptr_t)element - (uintptr_t)array->data;
    bool inside = offset < array->count * array->element_size; /* then it moves with the array */
    char *to = smi_array_extend(array, 1, call);
    if (to == NULL) return smi_mine.error.status;
    smi_array_populate(array);
    memcpy(to, inside ? (const char *)array->data + offset : (const char *)element, array->element_size);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_array_push(sagemem_array *array, const void *element) {
    if (SMI_UNLIKELY(array == NULL || element == NULL || array->count >= array->capacity))
        return smi_array_push_slow(array, element);
    memcpy((char *)array->data + array->count * array->element_size, element, array->element_size);
    array->count++;
    return SAGEMEM_OK;
}

SAGEMEM_API void *sagemem_array_add(sagemem_array *array, size_t count) {
    return smi_array_extend(array, count, "sagemem_array_add");
}

SAGEMEM_API sagemem_status sagemem_array_resize(sagemem_array *array, size_t count) {
    const char *call = "sagemem_array_resize";
    if (smi_array_bad(array, call)) return SAGEMEM_E_ARGUMENT;
    if (count <= array->count) smi_array_cut(array, count);
    else if (smi_array_extend(array, count - array->count, call) == NULL) return smi_mine.error.status;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_array_reserve(sagemem_array *array, size_t capacity) {
    const char *call = "sagemem_array_reserve";
    if (smi_array_bad(array, call)) return SAGEMEM_E_ARGUMENT;
    if (capacity <= smi_array_room(array)) return SAGEMEM_OK;
    if (array->stable_max > 0 && capacity > array->stable_max)
        return smi_fail(SAGEMEM_E_FULL, 0, call, "%zu elements are over stable_max of %zu; make the array with more", capacity,
                        array->stable_max);
    if (capacity > smi_array_most(array->element_size)) return smi_array_overflow(0, capacity, array->element_size, call);
    return smi_array_resize_block(array, capacity, capacity, call) ? SAGEMEM_OK : smi_mine.error.status;
}

SAGEMEM_API void *sagemem_array_at(const sagemem_array *array, size_t index) {
    if (SMI_LIKELY(array != NULL && index < array->count)) return (char *)array->data + index * array->element_size;
    smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_array_at", "there is no element %zu: the array has %zu", index,
             array != NULL ? array->count : (size_t)0);
    return NULL;
}

SAGEMEM_API void sagemem_array_remove_swap(sagemem_array *array, size_t index) {
    if (array == NULL || index >= array->count) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_array_remove_swap", "there is no element %zu: the array has %zu", index,
                 array != NULL ? array->count : (size_t)0);
        return;
    }
    size_t last = array->count - 1, size = array->element_size;
    if (index < last) memcpy((char *)array->data + index * size, (const char *)array->data + last * size, size);
    smi_array_cut(array, last);
}

SAGEMEM_API sagemem_status sagemem_array_shrink(sagemem_array *array) {
    const char *call = "sagemem_array_shrink";
    if (smi_array_bad(array, call)) return SAGEMEM_E_ARGUMENT;
    smi_ref ref;
    if (smi_resolve_or_fault(array->data, &ref, call) != SAGEMEM_OK) return smi_mine.error.status;
    if (array->stable_max > 0 && (ref.page == NULL || ref.page->reserved == 0)) return SAGEMEM_OK; /* it must not move */
    size_t least = array->count > 0 ? array->count : 1;
    if (least * array->element_size == ref.size) return SAGEMEM_OK;
    sagemem_error before = smi_mine.error;
    size_t used = array->count * array->element_size;
    if (smi_watched) smi_watch_open((const char *)array->data + used, ref.size - used); /* zeroing heaps clear behind the end */
    void *data = smi_realloc_if(array->data, least * array->element_size, SAGEMEM_TAG_SAME, smi_nowhere, true, call);
    if (data == NULL && !smi_array_short_of_memory()) return smi_mine.error.status;
    if (data == NULL) smi_mine.error = before;
    smi_array_settle(array, data != NULL ? data : array->data);
    return SAGEMEM_OK;
}

SAGEMEM_API void sagemem_array_deinit(sagemem_array *array) {
    if (array == NULL) return;
    if (array->data != NULL) smi_free(array->data, smi_nowhere, "sagemem_array_deinit");
    memset(array, 0, sizeof *array);
}

SAGEMEM_API size_t sagemem_array_count(const sagemem_array *array) { return array != NULL ? array->count : 0; }
SAGEMEM_API size_t sagemem_array_capacity(const sagemem_array *array) { return array != NULL ? smi_array_room(array) : 0; }
SAGEMEM_API void *sagemem_array_data(const sagemem_array *array) { return array != NULL ? array->data : NULL; }

/* -- Columns -----------------------------------------------------------------------------------------------------
 *
 *   block   | column 0: capacity elements ..... | to 64 | column 1: capacity elements ....... | to 64 | ...
 *             base[0]  count of them in use               base[1]
 *
 * Growing makes a new block, so that a failure leaves the old one as it is. What is said of arrays about zeroing heaps and
 * tools holds for each column. */

struct sagemem_columns {
    smi_object object;
    sagemem_tag tag;
    double growth;
    size_t count, capacity, most; /* rows; most: in the largest block */
    size_t column_count;
    sagemem_column *columns; /* one piece of meta memory: these, the bases, the names */
    char **base;
    size_t described; /* its size */
    char *block;      /* NULL: capacity is 0 */
};

enum { SMI_COLUMN_ALIGN = 64 };

static size_t smi_columns_stride(const sagemem_columns *c, size_t column, size_t capacity) {
    return (c->columns[column].element_size * capacity + SMI_COLUMN_ALIGN - 1) & ~(size_t)(SMI_COLUMN_ALIGN - 1);
}
static bool smi_columns_zero(const sagemem_columns *c) { return (c->object.domain->flags & SAGEMEM_HEAP_ZERO) != 0; }

static void smi_columns_end(smi_object *object) {
    sagemem_columns *c = (sagemem_columns *)object;
    if (c->block != NULL) smi_free(c->block, smi_nowhere, "sagemem_columns_destroy");
    smi_meta_free(c->columns, c->described);
}

/* The block is the one thing that the program can take from under the columns: by sagemem_free of column 0. */
static size_t smi_columns_check(const smi_object *object, const char *call) {
    const sagemem_columns *c = (const sagemem_columns *)object;
    smi_check_ctx damage = {call, 0};
    char why[SMI_WHY + 40], text[2 * SMI_WHY];
    smi_ref ref;
    sagemem_status status = c->block != NULL ? smi_resolve(c->block, &ref, why, sizeof why) : SAGEMEM_OK;
    if (status == SAGEMEM_OK || status == SAGEMEM_E_CORRUPT) return 0; /* damage of blocks is found with the blocks */
    smi_text(text, sizeof text, "the columns '%s' have lost their block: %s", smi_object_name(&c->object), why);
    smi_damage(&damage, text);
    return damage.damaged;
}

static const smi_object_kind smi_columns_kind = {"columns", sizeof(sagemem_columns), smi_columns_end, smi_columns_check};

static sagemem_columns *smi_columns_enter(const sagemem_columns *columns, const char *call) {
    return smi_object_enter(columns, &smi_columns_kind, call) ? (sagemem_columns *)(uintptr_t)columns : NULL;
}

/* A new block for that many rows, with the present ones in it; true also where these have become more than that. */
static bool smi_columns_move(sagemem_columns *c, size_t capacity, bool tentative, const char *call) {
    size_t bytes = 0;
    char *block = NULL;
    for (size_t i = 0; i < c->column_count; i++) bytes += smi_columns_stride(c, i, capacity);
    smi_wish wish = {0, false, tentative};
    if (capacity > 0)
        block = (char *)smi_alloc_wish(c->object.domain->base, c->object.domain, SMI_COLUMN_ALIGN, bytes, c->tag, smi_nowhere, wish,
                                       call);
    if (capacity > 0 && block == NULL) return false;
    if (c->count > capacity) { /* a reclaimer has added rows meanwhile; it may also have shrunk the columns */
        smi_free(block, smi_nowhere, call);
        return true;
    }
    if (block != NULL && smi_watched) smi_watch_shut(block, sagemem_size(block));
    char *at = block, *old = c->block;
    for (size_t i = 0; i < c->column_count; i++) {
        size_t used = c->count * c->columns[i].element_size;
        if (used > 0) {
            smi_array_open(at, used, false);
            memcpy(at, c->base[i], used);
        }
        c->base[i] = at;
        if (at != NULL) at += smi_columns_stride(c, i, capacity);
    }
    c->block = block;
    c->capacity = capacity;
    if (old != NULL) smi_free(old, smi_nowhere, call);
    return true;
}

static bool smi_columns_grow(sagemem_columns *c, size_t more, const char *call) {
    if (more > c->most - c->count) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                 "%zu and %zu more rows are over the %zu that an address can count; check how the number was computed", c->count,
                 more, c->most);
        return false;
    }
    size_t need = c->count + more, want = smi_array_larger(c->capacity, need, c->most, c->growth);
    sagemem_error before = smi_mine.error;
    for (; want > need; want = smi_array_less(want, need)) {
        if (smi_columns_move(c, want, true, call)) return true;
        if (!smi_array_short_of_memory()) return false;
        smi_mine.error = before;
    }
    return smi_columns_move(c, need, false, call);
}

/* Room for `more` rows behind the last, however many a reclaimer has added meanwhile. */
static bool smi_columns_make_room(sagemem_columns *c, size_t more, const char *call) {
    while (more > c->capacity - c->count)
        if (!smi_columns_grow(c, more, call)) return false;
    return true;
}

static bool smi_columns_set_count(sagemem_columns *c, size_t count, const char *call) {
    bool zeroes = smi_columns_zero(c);
    if (count > c->count && !smi_columns_make_room(c, count - c->count, call)) return false;
    size_t was = c->count;
    for (size_t i = 0; i < c->column_count && count != was; i++) {
        size_t size = c->columns[i].element_size;
        if (count > was) smi_array_open(c->base[i] + was * size, (count - was) * size, zeroes);
        else smi_array_drop(c->base[i] + count * size, (was - count) * size, zeroes);
    }
    c->count = count;
    return true;
}

/* What is wrong with a desc, or OK with the bytes of a row and of all names. */
static sagemem_status smi_columns_measure(const sagemem_columns_desc *desc, size_t *row, size_t *names, const char *call) {
    *row = *names = 0;
    if (desc == NULL || desc->columns == NULL || desc->column_count == 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no columns are given: set desc->columns and desc->column_count");
    if (smi_array_growth_bad(desc->growth, call)) return SAGEMEM_E_ARGUMENT;
    if (!smi_tag_known(desc->tag, call)) return SAGEMEM_E_ARGUMENT;
    for (size_t i = 0; i < desc->column_count; i++) {
        const sagemem_column *column = &desc->columns[i];
        const char *name = column->name != NULL ? column->name : "";
        if (column->element_size == 0)
            return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "column %zu '%s' has no element_size: give sizeof of what it holds", i,
                            name);
        for (size_t j = 0; j < i && name[0] != '\0'; j++)
            if (desc->columns[j].name != NULL && strcmp(desc->columns[j].name, name) == 0)
                return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "columns %zu and %zu are both named '%s'; rename one", j, i, name);
        if (__builtin_add_overflow(*row, column->element_size, row) || __builtin_add_overflow(*names, strlen(name) + 1, names) ||
            *row > SIZE_MAX / 4 || i > SIZE_MAX / 256)
            return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "a row of %zu columns is larger than an object can be", i + 1);
    }
    return SAGEMEM_OK;
}

/* Copies the columns' descriptions, and their names behind them. */
static bool smi_columns_describe(sagemem_columns *c, const sagemem_columns_desc *desc, size_t names, const char *call) {
    size_t each = sizeof(sagemem_column) + sizeof(char *), n = desc->column_count;
    c->described = n * each + names;
    c->columns = (sagemem_column *)smi_object_meta(&c->object, c->described, call);
    if (c->columns == NULL) return false;
    c->column_count = n;
    c->base = (char **)(void *)(c->columns + n);
    char *text = (char *)(c->base + n);
    for (size_t i = 0; i < n; i++) {
        c->columns[i].element_size = desc->columns[i].element_size;
        if (desc->columns[i].name == NULL) continue;
        size_t size = strlen(desc->columns[i].name) + 1;
        c->columns[i].name = (const char *)memcpy(text, desc->columns[i].name, size);
        text += size;
    }
    return true;
}

SAGEMEM_API sagemem_columns *sagemem_columns_create(const sagemem_columns_desc *desc) {
    const char *call = "sagemem_columns_create";
    size_t row, names;
    if (smi_columns_measure(desc, &row, &names, call) != SAGEMEM_OK) return NULL;
    SMI_ASSUME(row > 0);
    size_t most = (SMI_ARRAY_BYTES - (SMI_COLUMN_ALIGN - 1) * desc->column_count) / row;
    if (desc->initial_capacity > most) {
        smi_array_overflow(0, desc->initial_capacity, row, call);
        return NULL;
    }
    sagemem_columns *c = (sagemem_columns *)smi_object_create(desc->heap, &smi_columns_kind, desc->name, call);
    if (c == NULL) return NULL;
    smi_domain *heap = c->object.domain->base;
    c->tag = desc->tag;
    c->growth = desc->growth == 0 ? 1.5 : desc->growth;
    c->most = most;
    bool made = smi_columns_describe(c, desc, names, call) &&
                (desc->initial_capacity == 0 || smi_columns_move(c, desc->initial_capacity, false, call));
    if (!made) smi_object_end(&c->object);
    smi_leave(heap);
    return made ? c : NULL;
}

SAGEMEM_API sagemem_status sagemem_columns_get_desc(const sagemem_columns *columns, sagemem_columns_desc *out) {
    const char *call = "sagemem_columns_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_columns_desc");
    const sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return smi_mine.error.status;
    out->heap = c->object.domain->base;
    out->tag = c->tag;
    out->name = smi_object_name(&c->object);
    out->columns = c->columns;
    out->column_count = c->column_count;
    out->initial_capacity = c->capacity;
    out->growth = c->growth;
    smi_object_leave(&c->object);
    return SAGEMEM_OK;
}

SAGEMEM_API void *sagemem_columns_data(sagemem_columns *columns, size_t column) {
    const char *call = "sagemem_columns_data";
    const sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return NULL;
    void *base = column < c->column_count ? c->base[column] : NULL;
    if (column >= c->column_count)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "there is no column %zu, the first of %zu is 0; sagemem_columns_find knows names",
                 column, c->column_count);
    smi_object_leave(&c->object);
    return base;
}

SAGEMEM_API size_t sagemem_columns_find(const sagemem_columns *columns, const char *name) {
    const char *call = "sagemem_columns_find";
    const sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return SIZE_MAX;
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < c->column_count && found == SIZE_MAX && name != NULL && name[0] != '\0'; i++)
        if (c->columns[i].name != NULL && strcmp(c->columns[i].name, name) == 0) found = i;
    if (found == SIZE_MAX)
        smi_fail(SAGEMEM_E_NOT_FOUND, 0, call, "none of the %zu columns is named '%s'; names are compared byte by byte",
                 c->column_count, name != NULL ? name : "");
    smi_object_leave(&c->object);
    return found;
}

SAGEMEM_API size_t sagemem_columns_count(const sagemem_columns *columns) {
    const sagemem_columns *c = smi_columns_enter(columns, "sagemem_columns_count");
    if (c == NULL) return 0;
    size_t count = c->count;
    smi_object_leave(&c->object);
    return count;
}

SAGEMEM_API size_t sagemem_columns_capacity(const sagemem_columns *columns) {
    const sagemem_columns *c = smi_columns_enter(columns, "sagemem_columns_capacity");
    if (c == NULL) return 0;
    size_t capacity = c->capacity;
    smi_object_leave(&c->object);
    return capacity;
}

SAGEMEM_API sagemem_status sagemem_columns_add(sagemem_columns *columns, size_t count) {
    const char *call = "sagemem_columns_add";
    sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return smi_mine.error.status;
    bool done = smi_columns_make_room(c, count, call) && smi_columns_set_count(c, c->count + count, call); /* so it cannot wrap */
    smi_object_leave(&c->object);
    return done ? SAGEMEM_OK : smi_mine.error.status;
}

SAGEMEM_API sagemem_status sagemem_columns_resize(sagemem_columns *columns, size_t count) {
    const char *call = "sagemem_columns_resize";
    sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return smi_mine.error.status;
    bool done = smi_columns_set_count(c, count, call);
    smi_object_leave(&c->object);
    return done ? SAGEMEM_OK : smi_mine.error.status;
}

SAGEMEM_API sagemem_status sagemem_columns_reserve(sagemem_columns *columns, size_t capacity) {
    const char *call = "sagemem_columns_reserve";
    sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    if (capacity > c->most)
        status =
            smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                     "%zu rows are over the %zu that an address can count; check how the number was computed", capacity, c->most);
    else if (capacity > c->capacity && !smi_columns_move(c, capacity, false, call)) status = smi_mine.error.status;
    smi_object_leave(&c->object);
    return status;
}

SAGEMEM_API void sagemem_columns_remove_swap(sagemem_columns *columns, size_t row) {
    const char *call = "sagemem_columns_remove_swap";
    sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return;
    if (row >= c->count) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "there is no row %zu: the columns have %zu", row, c->count);
    } else {
        size_t last = c->count - 1;
        for (size_t i = 0; i < c->column_count && row < last; i++) {
            size_t size = c->columns[i].element_size;
            memcpy(c->base[i] + row * size, c->base[i] + last * size, size);
        }
        smi_columns_set_count(c, last, call);
    }
    smi_object_leave(&c->object);
}

SAGEMEM_API sagemem_status sagemem_columns_shrink(sagemem_columns *columns) {
    const char *call = "sagemem_columns_shrink";
    sagemem_columns *c = smi_columns_enter(columns, call);
    if (c == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    sagemem_error before = smi_mine.error;
    if (c->count < c->capacity && !smi_columns_move(c, c->count, true, call)) {
        if (smi_array_short_of_memory()) smi_mine.error = before;
        else status = smi_mine.error.status;
    }
    smi_object_leave(&c->object);
    return status;
}

SAGEMEM_API void sagemem_columns_destroy(sagemem_columns *columns) {
    if (columns == NULL) return;
    sagemem_columns *c = smi_columns_enter(columns, "sagemem_columns_destroy");
    if (c == NULL) return;
    smi_domain *heap = c->object.domain->base;
    smi_object_end(&c->object);
    smi_leave(heap);
}

#endif /* SAGEMEM_WITH_ARRAY */

/* ==========================================================================
 * >>slice  Owners with a count and a serial number.
 * ========================================================================== */
#if SAGEMEM_WITH_SLICE

/* A slice carries the serial number that the owner of its bytes had when they began. Owners lie in the library's own
 * memory, which stays readable, and are used again only as owners: any slice, however old, can be asked what it is.
 *
 *   slice {data, size, owner, serial}  -.
 *   slice {data, size, owner, serial}  --`-> owner  word: serial << 32 | slices that share the bytes
 *                                                   the block, or the release_fn, that goes with the last of them
 *
 * Every change of the count is one compare-exchange of the word, serial included, and the one that takes the last slice
 * away moves the serial on: no thread can see bytes without their count, retain what was released, or release twice.
 * When 32 bits are used up the owner stays unused for ever: 64 bytes for four thousand million uses. */

struct sagemem_slice_owner {
    uintptr_t magic; /* smi_slice_magic ^ address */
    smi_u64 word;
    const void *data; /* the heap's block, or what release_fn is given */
    void (*release_fn)(void *ctx, const void *data);
    void *ctx;
    const smi_domain *domain; /* of the block; NULL: foreign bytes */
    smi_u64 salt;             /* the domain's, while it is the one that the block came from */
    struct sagemem_slice_owner *next;
};
typedef struct sagemem_slice_owner smi_slice_owner;

static const uintptr_t smi_slice_magic = (uintptr_t)0x6C1D9A3F50B7E285u;
static const sagemem_slice smi_slice_none = {NULL, 0, NULL, 0};
static smi_slice_owner *smi_slice_unused; /* under smi_meta_lock */

static smi_slice_owner *smi_slice_owner_try(const char *call) {
    if (smi_os_fails()) {
        smi_fail_system(call, sizeof(smi_slice_owner));
        return NULL;
    }
    smi_lock_take(&smi_meta_lock);
    smi_slice_owner *owner = smi_slice_unused;
    if (owner != NULL) smi_slice_unused = owner->next;
    smi_lock_give(&smi_meta_lock);
    if (owner != NULL) return owner;
    owner = (smi_slice_owner *)smi_meta_alloc(sizeof *owner);
    if (owner == NULL) return NULL;
    owner->magic = smi_slice_magic ^ (uintptr_t)owner;
    owner->word = (uint64_t)1 << 32;
    return owner;
}

/* An owner of nothing yet. NULL: the error is set. */
static smi_slice_owner *smi_slice_owner_new(const char *call) {
    smi_start();
    for (uint32_t step = 0;;) {
        smi_slice_owner *owner = smi_slice_owner_try(call);
        if (owner != NULL || !smi_reclaim(NULL, &step, sizeof *owner)) return owner;
    }
}

static void smi_slice_owner_give(smi_slice_owner *owner) {
    smi_lock_take(&smi_meta_lock);
    owner->next = smi_slice_unused;
    smi_slice_unused = owner;
    smi_lock_give(&smi_meta_lock);
}

/* The first slice of what the owner has been given. */
static sagemem_slice smi_slice_first(smi_slice_owner *owner, size_t size) {
    uint64_t word = SMI_LOAD(&owner->word) + 1;
    SMI_STORE_RELEASE(&owner->word, word); /* whoever still has an older serial sees it come too late */
    sagemem_slice slice = {owner->data, size, owner, word >> 32};
    return slice;
}

static sagemem_slice smi_slice_of_block(smi_slice_owner *owner, const void *block, size_t size, const smi_ref *ref) {
    owner->data = block;
    owner->release_fn = NULL;
    owner->ctx = NULL;
    SMI_STORE(&owner->domain, ref->domain);
    SMI_STORE(&owner->salt, ref->domain->salt);
    return smi_slice_first(owner, size);
}

static bool smi_slice_counts(uint64_t word, uint64_t serial) { return word >> 32 == serial && (uint32_t)word != 0; }

/* The block went with its scope or heap: a domain has its salt for itself, and a new one after each reset. Relaxed: the one
 * who has a slice came by it after these were set; of one who has none the word tells. */
static bool smi_slice_lost(const smi_slice_owner *owner) {
    const smi_domain *d = SMI_LOAD(&owner->domain);
    return d != NULL && (d->ending || d->salt != SMI_LOAD(&owner->salt));
}

static sagemem_status smi_slice_stale(const sagemem_slice *slice, bool lost, const char *call) {
    return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_STALE, call,
                     lost ? "the slice of %zu bytes at %p outlives the scope or heap that its block was in; release it before that "
                            "ends, or take the block from outside"
                          : "the slice of %zu bytes at %p was released with the last one of its bytes; look for one release too "
                            "many, or a copy that was not retained",
                     slice->size, slice->data);
}

/* The owner that a slice names, which must have one; NULL: the fault handler was called. */
static smi_slice_owner *smi_slice_owner_of(const sagemem_slice *slice, const char *call) {
    smi_slice_owner *owner = slice->owner;
    const smi_page *page = smi_lookup(owner);
    if (SMI_LIKELY(page != NULL && page->kind == SMI_META && ((uintptr_t)owner & 63) == 0 &&
                   owner->magic == (smi_slice_magic ^ (uintptr_t)owner)))
        return owner;
    smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, call,
              "the slice of %zu bytes at %p has no owner at %p; pass what these calls returned, or zero: {0}", slice->size,
              slice->data, (const void *)owner);
    return NULL;
}

/* Whether the bytes of a slice are there, by its owner's word; else the fault handler was called. */
static bool smi_slice_lives(const sagemem_slice *slice, const smi_slice_owner *owner, uint64_t word, const char *call) {
    bool counts = smi_slice_counts(word, slice->serial);
    if (SMI_LIKELY(counts && !smi_slice_lost(owner))) return true;
    smi_slice_stale(slice, counts, call);
    return false;
}

/* One more slice of the same bytes. */
static sagemem_status smi_slice_add(const sagemem_slice *slice, const char *call) {
    smi_slice_owner *owner = smi_slice_owner_of(slice, call);
    if (owner == NULL) return smi_mine.error.status;
    smi_u64 word = SMI_LOAD_ACQUIRE(&owner->word); /* acquire: what the owner was given before it had this serial */
    do {
        if (!smi_slice_lives(slice, owner, word, call)) return SAGEMEM_E_STALE;
        if ((uint32_t)word == UINT32_MAX)
            return smi_fail(SAGEMEM_E_FULL, 0, call, "%u slices share the bytes at %p; release some: each release counts",
                            UINT32_MAX, slice->data);
    } while (!SMI_CAS(&owner->word, &word, word + 1));
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_slice sagemem_slice_copy(sagemem_heap *heap, const void *data, size_t size, sagemem_tag tag) {
    const char *call = "sagemem_slice_copy";
    if (data == NULL && size > 0) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "data is NULL, but %zu bytes are to be copied", size);
        return smi_slice_none;
    }
    smi_slice_owner *owner = smi_slice_owner_new(call);
    if (owner == NULL) return smi_slice_none;
    smi_ref ref;
    void *block = smi_alloc(heap, size, tag, smi_nowhere, false, call);
    if (block == NULL || smi_resolve_or_fault(block, &ref, call) != SAGEMEM_OK) {
        smi_slice_owner_give(owner);
        return smi_slice_none;
    }
    if (size > 0) memcpy(block, data, size);
    return smi_slice_of_block(owner, block, size, &ref);
}

SAGEMEM_API sagemem_slice sagemem_slice_take(void *block, size_t size) {
    const char *call = "sagemem_slice_take";
    smi_ref ref;
    if (block == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "block is NULL: look whether its allocation failed");
        return smi_slice_none;
    }
    if (smi_resolve_or_fault(block, &ref, call) != SAGEMEM_OK) return smi_slice_none;
    if (size > ref.size) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes are to be seen of block %p, which has %zu; see sagemem_size", size, block,
                 ref.size);
        return smi_slice_none;
    }
    smi_slice_owner *owner = smi_slice_owner_new(call);
    return owner != NULL ? smi_slice_of_block(owner, block, size, &ref) : smi_slice_none;
}

SAGEMEM_API sagemem_slice sagemem_slice_wrap(const void *data, size_t size, void (*release_fn)(void *ctx, const void *data),
                                             void *ctx) {
    const char *call = "sagemem_slice_wrap";
    uintptr_t end;
    if ((data == NULL && size > 0) || __builtin_add_overflow((uintptr_t)data, size, &end)) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "there are no %zu bytes at %p; check both", size, data);
        return smi_slice_none;
    }
    smi_slice_owner *owner = smi_slice_owner_new(call);
    if (owner == NULL) return smi_slice_none;
    owner->data = data;
    owner->release_fn = release_fn;
    owner->ctx = ctx;
    SMI_STORE(&owner->domain, (const smi_domain *)NULL);
    return smi_slice_first(owner, size);
}

SAGEMEM_API sagemem_slice sagemem_slice_retain(sagemem_slice slice) {
    if (slice.owner == NULL || smi_slice_add(&slice, "sagemem_slice_retain") == SAGEMEM_OK) return slice;
    return smi_slice_none;
}

/* The calling thread has taken the last slice away: nobody else looks at the owner. It is free for others before the bytes go,
 * as whoever is called for them may not come back, or may make slices. */
static void smi_slice_last(smi_slice_owner *owner, const sagemem_slice *slice, bool worn, const char *call) {
    void *data = (void *)(uintptr_t)owner->data, *ctx = owner->ctx;
    void (*release_fn)(void *ctx, const void *data) = owner->release_fn;
    bool block = owner->domain != NULL, lost = smi_slice_lost(owner);
    if (!worn) smi_slice_owner_give(owner);
    if (lost) smi_slice_stale(slice, true, call);
    else if (block) smi_free(data, smi_nowhere, call);
    else if (release_fn != NULL) release_fn(ctx, data);
}

SAGEMEM_API void sagemem_slice_release(sagemem_slice slice) {
    const char *call = "sagemem_slice_release";
    smi_slice_owner *owner = slice.owner != NULL ? smi_slice_owner_of(&slice, call) : NULL;
    if (owner == NULL) return;
    smi_u64 word = SMI_LOAD(&owner->word), left;
    do {
        if (!smi_slice_counts(word, slice.serial)) {
            smi_slice_stale(&slice, false, call);
            return;
        }
        left = (uint32_t)word > 1 ? word - 1 : ((word >> 32) + 1) << 32; /* the next serial; 0 after the last there is */
    } while (!SMI_CAS(&owner->word, &word, left)); /* release: our reads of the bytes; acquire, for the last: all others' */
    if ((uint32_t)left == 0) smi_slice_last(owner, &slice, left == 0, call);
}

SAGEMEM_API sagemem_status sagemem_slice_sub(sagemem_slice slice, size_t start, size_t end, sagemem_slice *out) {
    const char *call = "sagemem_slice_sub";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_slice");
    *out = smi_slice_none;
    if (start > end || end > slice.size)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "bytes %zu to %zu of a slice of %zu are not within it; keep start <= end <= size", start, end, slice.size);
    sagemem_status status = slice.owner != NULL ? smi_slice_add(&slice, call) : SAGEMEM_OK;
    if (status != SAGEMEM_OK) return status;
    *out = slice;
    out->size = end - start;
    if (start > 0) out->data = (const char *)slice.data + start;
    return SAGEMEM_OK;
}

SAGEMEM_API const void *sagemem_slice_at(sagemem_slice slice, size_t at, size_t size) {
    const char *call = "sagemem_slice_at";
    if (at > slice.size || size > slice.size - at) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes from %zu on reach past the end of a slice of %zu; look at its size first",
                 size, at, slice.size);
        return NULL;
    }
    if (slice.owner != NULL) {
        const smi_slice_owner *owner = smi_slice_owner_of(&slice, call);
        if (owner == NULL || !smi_slice_lives(&slice, owner, SMI_LOAD_ACQUIRE(&owner->word), call)) return NULL;
    }
    return at > 0 ? (const char *)slice.data + at : slice.data;
}

SAGEMEM_API uint64_t sagemem_slice_count(sagemem_slice slice) {
    const smi_slice_owner *owner = slice.owner != NULL ? smi_slice_owner_of(&slice, "sagemem_slice_count") : NULL;
    if (owner == NULL) return 0;
    uint64_t word = SMI_LOAD_ACQUIRE(&owner->word);
    return smi_slice_counts(word, slice.serial) && !smi_slice_lost(owner) ? (uint32_t)word : 0;
}

#endif /* SAGEMEM_WITH_SLICE */

/* ==========================================================================
 * >>map  Mapped, or read into a block: the same bytes.
 * ========================================================================== */
#if SAGEMEM_WITH_MAP

/* A file in messages: the end of a long path tells more than its beginning. NULL: it has none. */
static const char *smi_path_shown(const char *path) {
    enum { SMI_PATH_SHOWN = 90 };
    size_t length = path != NULL ? strlen(path) : 0;
    if (path == NULL) return "the descriptor";
    return length > SMI_PATH_SHOWN ? path + length - SMI_PATH_SHOWN : path;
}

/* A failed call on a file: what was done to which one, why, and the remedy. */
SAGEMEM_PRINTF(4, 5)
static sagemem_status smi_fail_file(const char *call, const char *path, const char *remedy, const char *what, ...) {
    int reason = smi_os_error();
    char text[80];
    va_list args;
    va_start(args, what);
    vsnprintf(text, sizeof text, what, args);
    va_end(args);
    sagemem_status status = smi_os_is_missing(reason)  ? SAGEMEM_E_NOT_FOUND
                            : smi_os_is_memory(reason) ? SAGEMEM_E_NOMEM
                                                       : SAGEMEM_E_IO;
    const char *shown = smi_path_shown(path);
    bool cut = path != NULL && shown != path;
    return smi_fail(status, reason, call, "%s%s %s: %s; %s", cut ? "..." : "", shown, text, smi_os_error_text(reason), remedy);
}

/* A copy of a path for an object; *bytes are to be given back. NULL: the error is set. */
static char *smi_copy_path(const smi_object *o, const char *path, size_t *bytes, const char *call) {
    *bytes = strlen(path) + 1;
    char *copy = (char *)smi_object_meta(o, *bytes, call);
    if (copy != NULL) memcpy(copy, path, *bytes);
    return copy;
}

/* A map keeps its file open: for guarded reads, the window, prefetch and refresh. What is in memory of it is one part:
 *
 *     file   0 ........ offset ------------------------------------------ offset + size ........ end of the file
 *     map               0 ......... first ---------- first + size ....... size
 *     part                  base .. data ----------- data + size .. end of a page, or of the block
 *
 * Without a window the part is the whole map and stays where it is until it is refreshed, so that any thread may read it.
 * Mapped: `base` is at a multiple of the system's unit. Read: `base` is a block of the object, and `data` is as aligned in
 * it as in the file, up to SMI_FILEMAP_ALIGN: what the program casts works with both. The block of a window is filled as
 * far as views ask, and somewhat further. Tools that watch see nothing but what was handed out. */

enum {
    SMI_FILEMAP_ALIGN = 64,     /* a cache line, the widest vector */
    SMI_FILEMAP_AHEAD = 1 << 18 /* bytes read behind a view: enough that a call is lost in the copying, few to throw away */
};

typedef struct smi_filemap_part {
    char *base;     /* NULL: nothing is in memory */
    size_t bytes;   /* from base to data + size; of a block, all of it */
    char *data;     /* the map's byte `first` */
    uint64_t first; /* 0 without a window */
    size_t size;
    bool mapped;
} smi_filemap_part;

/* Slices of a map's bytes that are out: see sagemem_index_slice. It ends with the last of them and the map. */
typedef struct smi_filemap_lease {
    smi_u64 holders;
} smi_filemap_lease;

struct sagemem_map {
    smi_object object;
    uint64_t serial;          /* another one after each refresh, and of each map */
    smi_filemap_lease *lease; /* NULL: there never was a slice; any thread sets it */
    sagemem_map_desc desc;    /* resolved; path is a copy */
    size_t path_bytes;
    uint64_t most; /* the length that was asked for */
    uint64_t size;
    smi_os_handle file;
    smi_filemap_part part;
    const char *shown; /* window: the view that is out, for tools that watch */
    size_t shown_bytes;
    uint32_t forks; /* when it was opened */
    bool mapped;    /* part.mapped, for any thread */
    bool touched;   /* someone has got the writable pointer; any thread sets it */
    bool doubtful;  /* a flush failed, and the system may count as written what is not */
    bool closing;   /* flushed already */
};

static void smi_filemap_end(smi_object *object);
static size_t smi_filemap_check(const smi_object *object, const char *call);
static const smi_object_kind smi_filemap_kind = {"map", sizeof(sagemem_map), smi_filemap_end, smi_filemap_check};

/* -- Maps: what their failures say ----------------------------------------------------------------------------- */

static sagemem_status smi_filemap_cut(const sagemem_map *map, uint64_t end, uint64_t wanted, const char *call) {
    smi_os_info info; /* the end may lie before what was asked for */
    if (smi_os_info_of(map->file, &info) && info.size < end) end = info.size;
    return smi_fail(
        SAGEMEM_E_IO, 0, call,
        "%s ends at byte %llu, but bytes up to %llu were to be read: it was cut short; sagemem_map_refresh takes what is "
        "left",
        smi_path_shown(map->desc.path), (unsigned long long)end, (unsigned long long)wanted);
}

static smi_u64 smi_filemap_serials;
static uint64_t smi_filemap_serial(void) { return __atomic_add_fetch(&smi_filemap_serials, 1, __ATOMIC_RELAXED); }

/* Release: our reads of the bytes; acquire, for who then closes the map: all others'. */
static void smi_filemap_lease_drop(smi_filemap_lease *lease) {
    if (__atomic_sub_fetch(&lease->holders, 1, __ATOMIC_ACQ_REL) == 0) smi_meta_free(lease, sizeof *lease);
}
static unsigned long long smi_filemap_held(const sagemem_map *map) {
    const smi_filemap_lease *lease = SMI_LOAD_ACQUIRE(&map->lease);
    return lease != NULL ? SMI_LOAD_ACQUIRE(&lease->holders) - 1 : 0;
}

static sagemem_status smi_filemap_desc_check(const sagemem_map_desc *desc, const char *call) {
    if (desc == NULL || (desc->path == NULL) == (desc->fd_plus_one == 0) || desc->fd_plus_one < 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "which file? Give the desc a path, or a descriptor as fd_plus_one; one of them");
    if ((unsigned)desc->mode > SAGEMEM_MAP_WRITE || (unsigned)desc->access > SAGEMEM_ACCESS_RANDOM)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "mode %d or access %d does not exist; use SAGEMEM_MAP_* and SAGEMEM_ACCESS_*",
                        (int)desc->mode, (int)desc->access);
    if (!smi_tag_known(desc->tag, call)) return SAGEMEM_E_ARGUMENT;
    if (desc->numa_node_plus_one < 0 || desc->numa_node_plus_one > 1024)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "numa_node_plus_one is %d; use 0, or a node from 0 to 1023 and 1 more",
                        desc->numa_node_plus_one);
    if (desc->no_mapping && desc->no_fallback)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no_mapping and no_fallback leave no way to the bytes; set one of them");
    if (desc->window != 0 && desc->mode != SAGEMEM_MAP_READ)
        return smi_fail(
            SAGEMEM_E_ARGUMENT, 0, call,
            "a window of %llu bytes in a map to write to: what is written would be dropped when it slides; leave window 0, "
            "or map a part with offset and length",
            (unsigned long long)desc->window);
    return SAGEMEM_OK;
}

/* -- Maps: what is in memory of the file ----------------------------------------------------------------------- */

/* Tells tools that watch about what a part has besides `size` bytes at `from`: smi_watch_shut, or smi_watch_open. */
static void smi_filemap_rest(const smi_filemap_part *part, const char *from, size_t size,
                             void (*tell)(const void *at, size_t size)) {
    if (!smi_watched) return;
    size_t bytes = part->mapped ? (part->bytes + smi_os_page - 1) & ~(smi_os_page - 1) : part->bytes;
    tell(part->base, (size_t)(from - part->base));
    tell(from + size, (size_t)(part->base + bytes - (from + size)));
}

static void smi_filemap_drop(const smi_filemap_part *part) {
    if (part->base == NULL) return;
    smi_filemap_rest(part, part->data, 0, smi_watch_open);
    if (part->mapped) smi_os_unmap_file(part->base, part->bytes);
    else smi_free(part->base, smi_nowhere, "sagemem_map_close");
}

/* The map has that part from now on, instead of the one before. */
static void smi_filemap_put(sagemem_map *map, const smi_filemap_part *part) {
    smi_filemap_part old = map->part;
    map->part = *part;
    map->shown = NULL;
    map->shown_bytes = 0;
    SMI_STORE(&map->mapped, part->mapped);
    smi_object_mapped(&map->object, part->mapped ? part->bytes : 0, old.mapped ? old.bytes : 0);
    smi_object_buffered(&map->object, part->mapped ? 0 : part->bytes);
    smi_filemap_drop(&old);
}

/* Bytes that are in memory at a time, at most (but for what unaligned views cost). */
static uint64_t smi_filemap_room(const sagemem_map *map) {
    return map->desc.window != 0 && map->desc.window < map->size ? map->desc.window : map->size;
}

/* Maps from `first` on all of the map, or of a window as much as it may have, at least `least` bytes. False: the reason is
 * in smi_os_error(). */
static bool smi_filemap_map(const sagemem_map *map, uint64_t first, size_t least, smi_filemap_part *part) {
    uint64_t at = map->desc.offset + first;
    size_t lead = (size_t)(at % smi_os_map_unit()), size = (size_t)smi_filemap_room(map);
    if (map->desc.window != 0) {
        size = size > lead && size - lead > least ? size - lead : least;
        if (size > map->size - first) size = (size_t)(map->size - first);
    }
    memset(part, 0, sizeof *part);
    part->base = (char *)smi_os_map_file(map->file, at - lead, lead + size, map->desc.mode, map->desc.populate);
    if (part->base == NULL) return false;
    part->bytes = lead + size;
    part->data = part->base + lead;
    part->first = first;
    part->size = size;
    part->mapped = true;
    if (map->desc.access != SAGEMEM_ACCESS_NORMAL) smi_os_advise_access(part->base, part->bytes, map->desc.access);
    if (map->desc.huge_pages) smi_os_huge_advise(part->base, part->bytes);
    if (map->desc.numa_node_plus_one != 0)
        (void)smi_os_numa_bind(part->base, part->bytes, map->desc.numa_node_plus_one - 1, SAGEMEM_NUMA_PREFERRED);
    smi_filemap_rest(part, part->data, map->desc.window != 0 ? 0 : size, smi_watch_shut);
    return true;
}

/* Reads on behind what the part has, until it has the map's bytes up to `enough`; in one go if there are so many, up to `goal`. */
static sagemem_status smi_filemap_fill(const sagemem_map *map, smi_filemap_part *part, uint64_t enough, uint64_t goal,
                                       const char *call) {
    uint64_t at;
    while ((at = part->first + part->size) < enough) {
        unsigned long long in_file = map->desc.offset + at;
        size_t got;
        if (!smi_os_read_at(map->file, part->data + part->size, (size_t)(goal - at), in_file, &got))
            return smi_fail_file(call, map->desc.path, "repeat the call, or look at the disk", "could not be read at byte %llu",
                                 in_file);
        if (got == 0) return smi_filemap_cut(map, in_file, map->desc.offset + enough, call);
        part->size += got;
    }
    return SAGEMEM_OK;
}

/* A block for the whole map, filled; or one for a window, empty. */
static sagemem_status smi_filemap_block(const sagemem_map *map, smi_filemap_part *part, const char *call) {
    size_t lead = (size_t)(map->desc.offset % SMI_FILEMAP_ALIGN), room = (size_t)smi_filemap_room(map);
    bool window = map->desc.window != 0;
    memset(part, 0, sizeof *part);
    part->bytes = room + (window ? SMI_FILEMAP_ALIGN - 1 : lead);
    part->base = (char *)smi_object_alloc(&map->object, SMI_FILEMAP_ALIGN, part->bytes, map->desc.tag, false, call);
    if (part->base == NULL) return smi_mine.error.status;
    part->data = part->base + lead;
    if (!window) {
        sagemem_status status = smi_filemap_fill(map, part, room, room, call);
        if (status != SAGEMEM_OK) {
            smi_free(part->base, smi_nowhere, call);
            return status;
        }
    }
    smi_filemap_rest(part, part->data, window ? 0 : room, smi_watch_shut);
    return SAGEMEM_OK;
}

static sagemem_status smi_filemap_unmappable(const sagemem_map *map, const char *call) {
    int reason = smi_os_error();
    return smi_fail(SAGEMEM_E_UNSUPPORTED, reason, call, "%s cannot be mapped: %s; without no_fallback it would be read instead",
                    smi_path_shown(map->desc.path), smi_os_error_text(reason));
}

/* The first part of a map whose size is known: all of it, or the first window. */
static sagemem_status smi_filemap_take(const sagemem_map *map, smi_filemap_part *part, const char *call) {
    memset(part, 0, sizeof *part);
    if (map->size == 0) return SAGEMEM_OK;
    if (!map->desc.no_mapping && map->size >= map->desc.threshold) {
        if (smi_filemap_map(map, 0, 1, part)) return SAGEMEM_OK;
        if (map->desc.no_fallback) return smi_filemap_unmappable(map, call);
    }
    return smi_filemap_block(map, part, call);
}

/* Fills the block of a window so that it has that view. It starts anew where the view does, unless that continues it. */
static sagemem_status smi_filemap_extend(sagemem_map *map, uint64_t offset, size_t size, const char *call) {
    smi_filemap_part *part = &map->part;
    uint64_t room = smi_filemap_room(map), end = offset + size;
    if (offset < part->first || offset > part->first + part->size || end - part->first > room) {
        part->first = offset;
        part->size = 0;
        part->data = part->base + (map->desc.offset + offset) % SMI_FILEMAP_ALIGN;
    }
    uint64_t goal = map->desc.access == SAGEMEM_ACCESS_RANDOM ? end : map->desc.populate ? UINT64_MAX : end + SMI_FILEMAP_AHEAD;
    if (goal - part->first > room) goal = part->first + room;
    if (goal > map->size) goal = map->size;
    char *from = part->data + part->size;
    size_t more = (size_t)(goal - part->first) - part->size;
    smi_watch_fresh(from, more);
    sagemem_status status = smi_filemap_fill(map, part, end, goal, call);
    smi_watch_shut(from, more);
    return status;
}

/* Brings a view into the window. A mapping that fails is tried once: from then on, until it is refreshed, the file is read. */
static sagemem_status smi_filemap_slide(sagemem_map *map, uint64_t offset, size_t size, const char *call) {
    const smi_filemap_part *part = &map->part;
    if (offset >= part->first && offset - part->first + size <= part->size) return SAGEMEM_OK;
    if (part->mapped) {
        smi_filemap_part next;
        if (!smi_filemap_map(map, offset, size, &next)) {
            if (map->desc.no_fallback) return smi_filemap_unmappable(map, call);
            if (smi_filemap_block(map, &next, call) != SAGEMEM_OK) return smi_mine.error.status;
        }
        smi_filemap_put(map, &next);
    }
    return part->mapped ? SAGEMEM_OK : smi_filemap_extend(map, offset, size, call);
}

/* -- Maps: back to the file ------------------------------------------------------------------------------------ */

/* A copy that was read before a fork is written by the parent alone: the child would write over what the parent did since. */
static bool smi_filemap_is_ours(const sagemem_map *map) { return map->part.mapped || map->forks == smi_os_forks; }

/* Which bytes the program wrote is not known: all are written, and a file that was cut short has them again. */
static bool smi_filemap_write_back(const sagemem_map *map) {
    const smi_filemap_part *part = &map->part;
    size_t put;
    bool lost; /* of no matter: the next flush writes all of it again */
    for (size_t done = 0; done < part->size; done += put)
        if (!smi_os_write_at(map->file, part->data + done, part->size - done, map->desc.offset + done, &put) || put == 0)
            return false;
    return smi_os_sync(map->file, &lost);
}

/* What the system failed to write it may take for written, and never tries again (see smi_os_sync): every page is made dirty
 * once more, by an exchange of a byte for itself that no other thread's write gets lost in; as far as the file goes, behind
 * which a write would be a signal. */
static bool smi_filemap_soil(const sagemem_map *map) {
    const smi_filemap_part *part = &map->part;
    smi_os_info info;
    if (!smi_os_info_of(map->file, &info)) return false;
    uint64_t there = info.size > map->desc.offset ? info.size - map->desc.offset : 0;
    const char *end = part->data + (there < part->size ? (size_t)there : part->size);
    for (char *at = part->data; at < end; at = part->base + ((size_t)(at - part->base) / smi_os_page + 1) * smi_os_page) {
        char byte = __atomic_load_n(at, __ATOMIC_RELAXED); /* fails: another thread has just made it dirty */
        (void)__atomic_compare_exchange_n(at, &byte, byte, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    return true;
}

static bool smi_filemap_sync(sagemem_map *map) {
    const smi_filemap_part *part = &map->part;
    if (!part->mapped) return smi_filemap_write_back(map);
    bool done = (!map->doubtful || smi_filemap_soil(map)) && smi_os_flush_map(map->file, part->base, part->bytes);
    map->doubtful = !done;
    return done;
}

static sagemem_status smi_filemap_flush(sagemem_map *map, const char *call) {
    const smi_filemap_part *part = &map->part;
    if (map->desc.mode != SAGEMEM_MAP_WRITE || !SMI_LOAD(&map->touched)) return SAGEMEM_OK;
    if (!smi_filemap_is_ours(map))
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                        "%s was read, not mapped, before a fork: what is written to this copy stays in this process; open it here",
                        smi_path_shown(map->desc.path));
    smi_filemap_rest(part, part->data, part->size, smi_watch_open); /* the system is given whole pages */
    bool done = smi_filemap_sync(map);
    smi_filemap_rest(part, part->data, part->size, smi_watch_shut);
    if (done) return SAGEMEM_OK;
    return smi_fail_file(call, map->desc.path, "make room or mend it, and repeat the call; nothing is lost",
                         "could not be written");
}

/* -- Maps: beginning, end and check ---------------------------------------------------------------------------- */

/* Opens what the desc names. The handle is in the map also where it turns out to be of no use. */
static sagemem_status smi_filemap_open_file(sagemem_map *map, const sagemem_map_desc *desc, smi_os_info *info, const char *call) {
    bool update = desc->mode == SAGEMEM_MAP_WRITE;
    if (desc->path != NULL) {
        if (!smi_os_open_regular(&map->file, desc->path, update, info))
            return smi_fail_file(call, desc->path,
                                 update ? "it must be there and may be written" : "it must be there and may be read",
                                 "cannot be opened");
    } else {
        if (!smi_os_duplicate(&map->file, desc->fd_plus_one - 1)) {
            map->file = smi_os_no_handle();
            return smi_fail_file(call, NULL, "pass an open one, and 1 more", "%d cannot be used", desc->fd_plus_one - 1);
        }
        if (!smi_os_info_of(map->file, info) || (info->regular && update && !smi_os_may_update(map->file)))
            return smi_fail_file(call, NULL, "open it for reading and writing, not for appending", "%d cannot be used",
                                 desc->fd_plus_one - 1);
    }
    if (info->regular) return SAGEMEM_OK;
    if (info->directory)
        return smi_fail(SAGEMEM_E_IO, SMI_OS_IS_DIRECTORY, call, "%s is a directory; name a file in it",
                        smi_path_shown(desc->path));
    return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                    "%s is a pipe, a terminal or a device, which has no bytes to map; use sagemem_reader_open",
                    smi_path_shown(desc->path));
}

/* How large the map is, by what the file is now. */
static sagemem_status smi_filemap_measure(sagemem_map *map, const smi_os_info *info, const char *call) {
    uint64_t size = info->size > map->desc.offset ? info->size - map->desc.offset : 0;
    if (size > map->most) size = map->most;
    uint64_t room = map->desc.window != 0 && map->desc.window < size ? map->desc.window : size;
    if (room > (uint64_t)PTRDIFF_MAX)
        return smi_fail(SAGEMEM_E_TOO_BIG, 0, call,
                        "%s: %llu bytes are more than there are addresses for (%llu); set a smaller `window` in the desc and use "
                        "sagemem_map_view",
                        smi_path_shown(map->desc.path), (unsigned long long)room, (unsigned long long)PTRDIFF_MAX);
    map->size = map->desc.length = size;
    return SAGEMEM_OK;
}

static sagemem_status smi_filemap_begin(sagemem_map *map, const sagemem_map_desc *desc, const char *call) {
    smi_os_info info;
    memset(&info, 0, sizeof info);
    smi_filemap_part part;
    map->desc = *desc;
    map->desc.path = NULL;
    map->desc.heap = map->object.domain->base;
    map->most = desc->length != 0 ? desc->length : UINT64_MAX;
    map->file = smi_os_no_handle();
    map->forks = smi_os_forks;
    map->serial = smi_filemap_serial();
    sagemem_status status = smi_filemap_open_file(map, desc, &info, call);
    if (status == SAGEMEM_OK && desc->path != NULL) {
        map->desc.path = smi_copy_path(&map->object, desc->path, &map->path_bytes, call);
        if (map->desc.path == NULL) status = smi_mine.error.status;
    }
    if (status == SAGEMEM_OK) status = smi_filemap_measure(map, &info, call);
    if (status == SAGEMEM_OK) status = smi_filemap_take(map, &part, call);
    if (status != SAGEMEM_OK) return status;
    smi_filemap_put(map, &part);
    smi_object_file(&map->object, map->desc.path != NULL ? map->desc.path : "the descriptor");
    return SAGEMEM_OK;
}

/* Scope or heap end with the map still open: nobody is left to repeat a flush that fails. */
static void smi_filemap_end(smi_object *object) {
    sagemem_map *map = (sagemem_map *)object;
    smi_filemap_part none;
    if (!map->closing && smi_filemap_is_ours(map)) {
        sagemem_error last = smi_mine.error;
        if (smi_filemap_flush(map, "end of a map") != SAGEMEM_OK)
            smi_log(SAGEMEM_LOG_ERROR, "a map of %s ended and what was written to it is lost: %s", smi_path_shown(map->desc.path),
                    smi_mine.error.message);
        smi_mine.error = last;
    }
    if (smi_filemap_held(map) > 0)
        smi_log(SAGEMEM_LOG_ERROR, "a map of %s ended while %llu slices of its records were held: their bytes are gone",
                smi_path_shown(map->desc.path), smi_filemap_held(map));
    if (map->lease != NULL) smi_filemap_lease_drop(map->lease);
    map->lease = NULL;
    memset(&none, 0, sizeof none);
    smi_filemap_put(map, &none);
    if (map->file != smi_os_no_handle()) (void)smi_os_close(map->file); /* what was written is on the disk already */
    smi_meta_free((void *)(uintptr_t)map->desc.path, map->path_bytes);
}

/* The block's own guards are looked at with all others of the heap. */
static size_t smi_filemap_check(const smi_object *object, const char *call) {
    const sagemem_map *map = (const sagemem_map *)object;
    const smi_filemap_part *part = &map->part;
    smi_check_ctx c = {call, 0};
    char text[SMI_WHY];
    uint64_t lead = (uint64_t)(part->data - part->base);
    bool good = map->size <= map->most && map->size == map->desc.length && part->first <= map->size &&
                part->size <= map->size - part->first && lead <= part->bytes && part->size <= part->bytes - lead &&
                (part->base != NULL) == (map->size > 0) && part->mapped == map->mapped &&
                (map->desc.window != 0 || (part->first == 0 && part->size == map->size));
    if (good) return 0;
    smi_text(text, sizeof text, "the map of %s is damaged: something wrote over the library's own memory",
             smi_path_shown(map->desc.path));
    smi_damage(&c, text);
    return c.damaged;
}

SAGEMEM_API sagemem_map *sagemem_map_open(const sagemem_map_desc *desc) {
    const char *call = "sagemem_map_open";
    if (smi_filemap_desc_check(desc, call) != SAGEMEM_OK) return NULL;
    sagemem_map *map = (sagemem_map *)smi_object_create(desc->heap, &smi_filemap_kind, NULL, call);
    if (map == NULL) return NULL;
    smi_domain *heap = map->object.domain->base;
    bool begun = smi_filemap_begin(map, desc, call) == SAGEMEM_OK;
    if (!begun) smi_object_end(&map->object);
    smi_leave(heap);
    return begun ? map : NULL;
}

SAGEMEM_API sagemem_status sagemem_map_get_desc(const sagemem_map *map, sagemem_map_desc *out) {
    const char *call = "sagemem_map_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_map_desc");
    if (!smi_object_alive(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    *out = map->desc;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_map_close(sagemem_map *map) {
    const char *call = "sagemem_map_close";
    if (map == NULL) return SAGEMEM_OK;
    if (!smi_object_enter(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    smi_domain *heap = map->object.domain->base;
    unsigned long long held = smi_filemap_held(map);
    if (held > 0) {
        smi_leave(heap);
        return smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, call,
                         "%llu slices of the records of %s are still held; release them first", held,
                         smi_path_shown(map->desc.path));
    }
    sagemem_status status = smi_filemap_is_ours(map) ? smi_filemap_flush(map, call) : SAGEMEM_OK;
    if (status == SAGEMEM_OK) {
        map->closing = true;
        smi_object_end(&map->object);
    }
    smi_leave(heap);
    return status;
}

SAGEMEM_API const void *sagemem_map_data(const sagemem_map *map) {
    const char *call = "sagemem_map_data";
    if (!smi_object_alive(map, &smi_filemap_kind, call)) return NULL;
    if (map->desc.window != 0)
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%s is mapped through a window, of which sagemem_map_view shows parts",
                 smi_path_shown(map->desc.path));
    return map->desc.window == 0 ? map->part.data : NULL;
}

SAGEMEM_API uint64_t sagemem_map_size(const sagemem_map *map) {
    return smi_object_alive(map, &smi_filemap_kind, "sagemem_map_size") ? map->size : 0;
}

SAGEMEM_API bool sagemem_map_is_mapped(const sagemem_map *map) {
    return smi_object_alive(map, &smi_filemap_kind, "sagemem_map_is_mapped") && SMI_LOAD(&map->mapped);
}

/* The map is alive and has those bytes; any thread may ask. */
static sagemem_status smi_filemap_has(const sagemem_map *map, uint64_t offset, size_t size, const char *call) {
    if (!smi_object_alive(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    if (offset <= map->size && size <= map->size - offset) return SAGEMEM_OK;
    return smi_fail(
        SAGEMEM_E_ARGUMENT, 0, call,
        "%s: %zu bytes from %llu on are not all in a map of %llu bytes; ask for fewer, or sagemem_map_refresh if it has "
        "grown",
        smi_path_shown(map->desc.path), size, (unsigned long long)offset, (unsigned long long)map->size);
}

static const void *smi_filemap_window_view(sagemem_map *map, uint64_t offset, size_t size, const char *call) {
    if (size > map->desc.window) {
        smi_fail(SAGEMEM_E_TOO_BIG, 0, call,
                 "a view of %zu bytes is larger than the map's window of %llu; ask for parts, or open it with a larger window",
                 size, (unsigned long long)map->desc.window);
        return NULL;
    }
    if (!smi_object_enter(map, &smi_filemap_kind, call)) return NULL;
    smi_watch_shut(map->shown, map->shown_bytes);
    map->shown = NULL;
    map->shown_bytes = 0;
    if (smi_filemap_slide(map, offset, size, call) == SAGEMEM_OK) {
        map->shown = map->part.data + (offset - map->part.first);
        map->shown_bytes = size;
        smi_watch_open(map->shown, size);
    }
    const char *view = map->shown;
    smi_object_leave(&map->object);
    return view;
}

SAGEMEM_API const void *sagemem_map_view(sagemem_map *map, uint64_t offset, size_t size) {
    const char *call = "sagemem_map_view";
    if (smi_filemap_has(map, offset, size, call) != SAGEMEM_OK) return NULL;
    if (size == 0) return ""; /* no bytes, and no failure */
    if (map->desc.window != 0) return smi_filemap_window_view(map, offset, size, call);
    return map->part.data + offset;
}

SAGEMEM_API void *sagemem_map_data_writable(sagemem_map *map) {
    const char *call = "sagemem_map_data_writable";
    if (!smi_object_alive(map, &smi_filemap_kind, call)) return NULL;
    if (map->desc.mode == SAGEMEM_MAP_READ) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%s was opened with SAGEMEM_MAP_READ; open it with _WRITE, or _PRIVATE for a copy",
                 smi_path_shown(map->desc.path));
        return NULL;
    }
    if (map->size > 0) SMI_STORE(&map->touched, true);
    return map->part.data;
}

SAGEMEM_API sagemem_status sagemem_map_flush(sagemem_map *map) {
    const char *call = "sagemem_map_flush";
    if (!smi_object_enter(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_filemap_flush(map, call);
    smi_object_leave(&map->object);
    return status;
}

/* Out of a private mapping, which may have pages that the file does not. The kernel copies and stops at what cannot be read;
 * but the rest of the page in which a file now ends reads as zeros, so the file is looked at, afterwards. Where the kernel
 * does not copy it is all there is, and a moment is left in which the file can be cut. */
static sagemem_status smi_filemap_copy_private(const sagemem_map *map, uint64_t offset, void *to, size_t size, const char *call) {
    const char *from = map->part.data + offset;
    uint64_t at = map->desc.offset + offset;
    size_t done;
    bool guarded = smi_os_copy_guarded(to, from, size, &done);
    smi_os_info info;
    memset(&info, 0, sizeof info);
    if (!smi_os_info_of(map->file, &info))
        return smi_fail_file(call, map->desc.path, "repeat the call, or look at the disk", "could not be looked at");
    if (info.size < at + size) return smi_filemap_cut(map, info.size, at + size, call);
    if (guarded && done < size) return smi_filemap_cut(map, at + done, at + size, call);
    if (!guarded) memcpy(to, from, size);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_map_read(sagemem_map *map, uint64_t offset, void *to, size_t size) {
    const char *call = "sagemem_map_read";
    if (smi_filemap_has(map, offset, size, call) != SAGEMEM_OK) return smi_mine.error.status;
    if (size == 0) return SAGEMEM_OK;
    if (to == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "to is NULL: pass room for %zu bytes", size);
    if (map->desc.window == 0 && !map->part.mapped) {
        memcpy(to, map->part.data + offset, size);
        return SAGEMEM_OK;
    }
    if (map->desc.mode == SAGEMEM_MAP_PRIVATE) return smi_filemap_copy_private(map, offset, to, size, call);
    /* What is written through a shared mapping is in the system's cache at once, which this reads: a call that fails, no signal. */
    smi_filemap_part out;
    memset(&out, 0, sizeof out);
    out.data = (char *)to;
    out.first = offset;
    return smi_filemap_fill(map, &out, offset + size, offset + size, call);
}

SAGEMEM_API sagemem_status sagemem_map_prefetch(sagemem_map *map, uint64_t offset, uint64_t size) {
    if (!smi_object_alive(map, &smi_filemap_kind, "sagemem_map_prefetch")) return smi_mine.error.status;
    bool whole = map->desc.window == 0;
    if (offset >= map->size || (whole && !map->part.mapped)) return SAGEMEM_OK; /* nothing there, or here already */
    if (size > map->size - offset) size = map->size - offset;
    if (size > (uint64_t)PTRDIFF_MAX / 2) size = (uint64_t)PTRDIFF_MAX / 2;
    size_t lead = (size_t)((map->desc.offset + offset) % smi_os_map_unit());
    char *at = whole ? map->part.data + offset - lead : NULL; /* the window may slide meanwhile */
    smi_os_will_need(map->file, at, map->desc.offset + offset - lead, lead + (size_t)size);
    return SAGEMEM_OK;
}

static sagemem_status smi_filemap_refresh(sagemem_map *map, const char *call) {
    smi_os_info info;
    memset(&info, 0, sizeof info);
    smi_filemap_part part;
    uint64_t before = map->size;
    if (smi_filemap_held(map) > 0)
        return smi_fail(SAGEMEM_E_BUSY, 0, call, "%llu slices of the records of %s are still held; release them first",
                        smi_filemap_held(map), smi_path_shown(map->desc.path));
    sagemem_status status = smi_filemap_flush(map, call);
    if (status != SAGEMEM_OK) return status;
    if (!smi_os_info_of(map->file, &info))
        return smi_fail_file(call, map->desc.path, "repeat the call, or look at the disk", "could not be looked at");
    status = smi_filemap_measure(map, &info, call);
    if (status == SAGEMEM_OK) status = smi_filemap_take(map, &part, call);
    if (status == SAGEMEM_OK) {
        SMI_STORE(&map->touched, false);
        map->forks = smi_os_forks;
        map->serial = smi_filemap_serial();
        smi_filemap_put(map, &part);
    } else {
        map->size = map->desc.length = before;
    }
    return status;
}

SAGEMEM_API sagemem_status sagemem_map_refresh(sagemem_map *map) {
    const char *call = "sagemem_map_refresh";
    if (!smi_object_enter(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_filemap_refresh(map, call);
    smi_object_leave(&map->object);
    return status;
}

#endif /* SAGEMEM_WITH_MAP */

/* ==========================================================================
 * >>io  Writer and reader.
 * ========================================================================== */
#if SAGEMEM_WITH_IO

/* -- Writers -----------------------------------------------------------------------------------------------------
 *
 *    offset            flight                       now
 *      |  written  |done........used|  written |done........used|   room   |
 *                  ^ the thread's, while `given`            ^ accepted     ^ size
 *
 *    Two parts, each a run of bytes at a position of the target: `now` is filled by the caller, `flight` (background only)
 *    was handed to the thread. What is pending in flight comes before all of now. Of a part, [done, used) is pending; once
 *    it is written the part is empty and begins where it ended. Without the thread, or when it failed, the caller writes.
 *    While `given` is set, the thread alone touches flight.done and the target; it takes nothing else, no heap, no lock but
 *    the writer's. The list of writers and the bytes of all buffers are under smi_layers_lock. */

enum { SMI_WRITER_INITIAL = 1 << 20, SMI_WRITER_LEAST = 1 << 16, SMI_WRITER_MOST = 1 << 23 };
enum {
    SMI_WRITER_FLOOR = 4096, /* of a buffer that the budget makes small: below a page, writing through is as good */
    SMI_WRITER_HABIT = 4,    /* as many flushes in a row that find it full, or nearly empty, change an adaptive buffer */
    SMI_WRITER_PATH = 4096,  /* PATH_MAX of Linux */
    SMI_WRITER_NAME = 200    /* bytes of a name that the temporary file's takes over: with all else it fits into 255 */
};

typedef struct smi_writer_part {
    char *bytes; /* NULL: the budget, or the system, has none to give */
    size_t used, done, size;
    uint64_t base; /* position of bytes[0] */
} smi_writer_part;

struct sagemem_writer {
    smi_object object;
    const void *quick; /* where the short paths are open, &smi_writer_kind: it has not ended, and no sink is running */
    size_t fast;       /* what is smaller, and fits, takes the short path: size of now; 0 from any thread: look at the budget */
    smi_writer_part now, flight;
    uint32_t forks; /* of the process that opened it */
    bool begun;
    size_t begun_bytes; /* between write_begin and write_end */
    size_t wish;        /* the size that now should have, were it not for the budget */
    int habit;          /* full flushes in a row, or nearly empty ones if negative */
    uint64_t reach;     /* of the target: end of what a failed call has left behind what is accepted */
    char *path;
    char *target, *beside; /* atomic: the file to replace; the new one until it is renamed */
    uint32_t beside_number;
    smi_os_handle handle;
    sagemem_sink sink;
    sagemem_writer_desc desc; /* resolved */
    bool positioned;          /* written by position; else in order */
    bool emptied;             /* all that the file has is the writer's */
    bool renamed, closed, abandoned, listed, zero;
    sagemem_status final; /* not OK: what no repetition can mend, */
    int final_error;
    /* background */
    bool threaded, given, quit;
    smi_os_thread thread;
    smi_lock lock;
    smi_condition changed;
    sagemem_writer *older, *newer; /* of all writers of the process */
};

static void smi_writer_end(smi_object *o);
static size_t smi_writer_check(const smi_object *o, const char *call);
static const smi_object_kind smi_writer_kind = {"writer", sizeof(sagemem_writer), smi_writer_end, smi_writer_check};

static sagemem_writer *smi_writer_newest;
static smi_u64 smi_writer_budget, smi_writer_bytes; /* 0: none; of all buffers */
static smi_u64 smi_writer_buffers;                  /* that want a share of the budget: two of a background writer */
static uint32_t smi_writer_number;                  /* of the temporary file made last */

static const char *smi_writer_name(const sagemem_writer *w) {
    return w->path != NULL ? w->path : w->desc.sink != NULL ? "the sink" : "the descriptor";
}
static uint64_t smi_writer_accepted(const sagemem_writer *w) { return w->now.base + w->now.used; }
static uint64_t smi_writer_written(const sagemem_writer *w) {
    size_t done = SMI_LOAD(&w->flight.done);
    return w->flight.used > done ? w->flight.base + done : w->now.base + w->now.done;
}
/* Any thread: it may be a little behind. */
static uint64_t smi_writer_pending(const smi_writer_part *p) {
    size_t used = SMI_LOAD(&p->used), done = SMI_LOAD(&p->done);
    return used > done ? used - done : 0;
}

/* -- Writers: the target. */

/* Hands bytes to the target; *put of them were taken. The thread, or the caller while nothing is given to the thread. A
 * system target: E_IO, and smi_os_error(). */
static sagemem_status smi_writer_put(const sagemem_writer *w, const char *data, size_t size, uint64_t position, size_t *put) {
    *put = 0;
    if (w->desc.sink != NULL) {
        sagemem_error before = smi_mine.error;
        smi_mine.error.status = SAGEMEM_OK; /* a sink that uses the library leaves its reason there */
        sagemem_status status = w->sink.write_fn(w->sink.ctx, data, size, position);
        if (status == SAGEMEM_OK) *put = size;
        if (status == SAGEMEM_OK) smi_mine.error = before;
        return status;
    }
    while (*put < size) {
        size_t n = 0;
        bool ok = w->positioned ? smi_os_write_at(w->handle, data + *put, size - *put, position + *put, &n)
                                : smi_os_write(w->handle, data + *put, size - *put, &n);
        *put += n;
        if (!ok) return SAGEMEM_E_IO;
    }
    return SAGEMEM_OK;
}

/* The same in the caller's thread: a sink that used its own writer meanwhile would lose what that accepts. */
static sagemem_status smi_writer_put_here(sagemem_writer *w, const char *data, size_t size, uint64_t position, size_t *put) {
    const void *quick = w->quick;
    w->object.busy = true;
    SMI_STORE(&w->quick, NULL);
    sagemem_status status = smi_writer_put(w, data, size, position, put);
    if (w->object.domain != &smi_process) SMI_STORE(&w->quick, quick); /* else the sink has ended it */
    w->object.busy = false;
    return status;
}

static const char *const smi_writer_remedy = "nothing pending is lost: remove the cause and repeat, or abandon";

/* What a sink left as the last error is its reason, if the statuses agree: as text, and the system's number for it. */
static int smi_writer_sink_says(sagemem_status status, char *text, size_t size) {
    bool told = smi_mine.error.status == status;
    smi_text(text, size, "%s", told ? smi_mine.error.message : sagemem_status_name(status));
    return told ? smi_mine.error.os_error : 0;
}

static sagemem_status smi_writer_refused(const sagemem_writer *w, sagemem_status status, const char *call, size_t size,
                                         uint64_t position) {
    if (w->desc.sink == NULL)
        return smi_fail_file(call, smi_writer_name(w), smi_writer_remedy, "writing %zu bytes at %llu", size,
                             (unsigned long long)position);
    char why[130];
    int reason = smi_writer_sink_says(status, why, sizeof why);
    return smi_fail(status, reason, call, "the sink did not take %zu bytes for position %llu: %s; %s", size,
                    (unsigned long long)position, why, smi_writer_remedy);
}

/* Notes what no repetition can mend: from now on every call fails so. */
static sagemem_status smi_writer_finish_with(sagemem_writer *w, sagemem_status status) {
    w->final = status;
    w->final_error = smi_mine.error.os_error;
    SMI_STORE(&w->fast, (size_t)0);
    return status;
}

/* Writes what is pending in a part. The caller's thread, while nothing is given. */
static sagemem_status smi_writer_push(sagemem_writer *w, smi_writer_part *p, const char *call) {
    if (p->used == p->done) return SAGEMEM_OK;
    size_t put, size = p->used - p->done;
    uint64_t position = p->base + p->done;
    sagemem_status status = smi_writer_put_here(w, p->bytes + p->done, size, position, &put);
    SMI_STORE(&p->done, p->done + put);
    return status == SAGEMEM_OK ? status : smi_writer_refused(w, status, call, size - put, position + put);
}
/* All of it is written: it goes on where it ended. */
static void smi_writer_empty(smi_writer_part *p) {
    p->base += p->used;
    SMI_STORE(&p->used, (size_t)0);
    SMI_STORE(&p->done, (size_t)0);
    if (smi_watched && p->bytes != NULL) smi_watch_shut(p->bytes, p->size);
}

static void smi_writer_thread(void *ctx) {
    sagemem_writer *w = (sagemem_writer *)ctx;
    smi_lock_take(&w->lock);
    for (;;) {
        while (!w->given && !w->quit) smi_condition_wait(&w->changed, &w->lock);
        if (!w->given) break;
        smi_lock_give(&w->lock);
        smi_writer_part *p = &w->flight;
        size_t put; /* why it is not all, the caller learns when it tries the rest */
        (void)smi_writer_put(w, p->bytes + p->done, p->used - p->done, p->base + p->done, &put);
        smi_lock_take(&w->lock);
        SMI_STORE(&p->done, p->done + put);
        w->given = false;
        smi_condition_wake_all(&w->changed);
    }
    smi_lock_give(&w->lock);
}

static void smi_writer_wait(sagemem_writer *w) {
    if (!w->threaded) return;
    smi_lock_take(&w->lock);
    while (w->given) smi_condition_wait(&w->changed, &w->lock);
    smi_lock_give(&w->lock);
}

/* The thread has nothing to do, and nothing it left is pending. */
static sagemem_status smi_writer_land(sagemem_writer *w, const char *call) {
    smi_writer_wait(w);
    sagemem_status status = smi_writer_push(w, &w->flight, call);
    if (status == SAGEMEM_OK) smi_writer_empty(&w->flight);
    return status;
}

/* Everything accepted is the target's. */
static sagemem_status smi_writer_drain(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_land(w, call);
    if (status == SAGEMEM_OK) status = smi_writer_push(w, &w->now, call);
    if (status == SAGEMEM_OK) smi_writer_empty(&w->now);
    return status;
}

/* The thread writes what the caller has filled; the caller goes on in what the thread has written. */
static sagemem_status smi_writer_hand_over(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_land(w, call);
    if (status != SAGEMEM_OK) return status;
    smi_writer_part full = w->now;
    w->now.bytes = w->flight.bytes;
    SMI_STORE(&w->now.size, w->flight.size);
    w->now.base = full.base + full.used;
    SMI_STORE(&w->now.used, (size_t)0);
    SMI_STORE(&w->now.done, (size_t)0);
    smi_lock_take(&w->lock);
    w->flight.bytes = full.bytes;
    w->flight.size = full.size;
    w->flight.base = full.base;
    SMI_STORE(&w->flight.used, full.used);
    SMI_STORE(&w->flight.done, full.done);
    w->given = true;
    smi_condition_wake_all(&w->changed);
    smi_lock_give(&w->lock);
    return SAGEMEM_OK;
}

/* -- Writers: buffers and their budget. */

/* Claims bytes for a buffer: what is wanted, or what is left of the budget, but at least `least`; 0: there is not so much. */
static size_t smi_writer_claim(size_t least, size_t wanted) {
    smi_lock_take(&smi_layers_lock);
    uint64_t budget = smi_writer_budget, left = UINT64_MAX;
    if (budget > 0) left = budget > smi_writer_bytes ? budget - smi_writer_bytes : 0;
    size_t got = wanted <= left ? wanted : left >= least ? (size_t)left : 0;
    SMI_STORE(&smi_writer_bytes, smi_writer_bytes + got);
    smi_lock_give(&smi_layers_lock);
    return got;
}
static void smi_writer_unclaim(size_t size) {
    smi_lock_take(&smi_layers_lock);
    SMI_STORE(&smi_writer_bytes, smi_writer_bytes - size);
    smi_lock_give(&smi_layers_lock);
}

/* What a buffer may have: its share of the budget, if there is one. */
static size_t smi_writer_share(void) {
    uint64_t budget = SMI_LOAD(&smi_writer_budget), buffers = SMI_LOAD(&smi_writer_buffers);
    if (budget == 0) return SIZE_MAX;
    uint64_t share = budget / (buffers > 0 ? buffers : 1);
    return share < SMI_WRITER_FLOOR ? (size_t)SMI_WRITER_FLOOR : share < SIZE_MAX ? (size_t)share : SIZE_MAX;
}
/* Those with more than their share look at it at their next call. Under smi_layers_lock. */
static void smi_writer_press(void) {
    size_t share = smi_writer_share();
    for (sagemem_writer *w = smi_writer_newest; w != NULL; w = w->older)
        if (SMI_LOAD(&w->now.size) > share) SMI_STORE(&w->fast, (size_t)0);
}

/* Frees a buffer; `keep` bytes of it stay claimed. */
static void smi_writer_release(smi_writer_part *p, size_t keep) {
    if (p->bytes == NULL) return;
    smi_watch_open(p->bytes, p->size);
    smi_free_slow(p->bytes, smi_nowhere, "writer");
    p->bytes = NULL;
    smi_writer_unclaim(p->size - keep);
    SMI_STORE(&p->size, (size_t)0);
}

/* Makes claimed bytes the buffer. A smaller one will do, so neither are reclaimers asked nor is a failure the call's; if it is
 * `needed`, both. */
static bool smi_writer_take(sagemem_writer *w, size_t claimed, bool needed, const char *call) {
    sagemem_error before = smi_mine.error;
    bool zeroed;
    char *bytes = needed ? (char *)smi_object_alloc(&w->object, 16, claimed, w->desc.tag, false, call)
                         : (char *)smi_domain_alloc(w->object.domain, 16, claimed, w->desc.tag, smi_nowhere, &zeroed, call);
    if (bytes == NULL) {
        if (!needed) smi_mine.error = before;
        smi_writer_unclaim(claimed);
        return false;
    }
    if (smi_watched) smi_watch_shut(bytes, claimed);
    w->now.bytes = bytes;
    SMI_STORE(&w->now.size, claimed);
    return true;
}

/* Another size for the empty buffer. The old one goes first, so that the budget holds at every moment. */
static bool smi_writer_resize(sagemem_writer *w, size_t least, size_t size, bool needed, const char *call) {
    size_t before = w->now.size, kept = size < before ? size : 0;
    smi_writer_release(&w->now, kept);
    size_t claimed = kept > 0 ? kept : smi_writer_claim(least, size);
    if (claimed > 0 && smi_writer_take(w, claimed, needed, call)) return true;
    if (claimed == 0 && needed)
        smi_fail(
            SAGEMEM_E_LIMIT, 0, call,
            "%.80s: the budget of all writers has no %zu bytes left for a record; raise it, flush others, or use sagemem_write, "
            "which needs no buffer",
            smi_writer_name(w), least);
    if (before > 0 && smi_writer_claim(before, before) > 0) (void)smi_writer_take(w, before, false, call);
    return false;
}

/* The short path is open as far as the buffer goes. */
static void smi_writer_quicken(sagemem_writer *w) {
    SMI_STORE(&w->fast, smi_watched || w->final != SAGEMEM_OK || w->renamed ? (size_t)0 : w->now.size);
    smi_object_buffered(&w->object, (uint64_t)w->now.size + w->flight.size);
}

/* Brings the buffer, which is empty, to its size: a shrinking budget, an adaptive writer, memory that is there again. */
static void smi_writer_fit(sagemem_writer *w, const char *call) {
    size_t share = smi_writer_share(), goal = w->wish < share ? w->wish : share;
    if (w->now.bytes == NULL && w->flight.bytes != NULL && w->flight.used == 0 && w->flight.size <= share) {
        w->now.bytes = w->flight.bytes; /* there is memory for one only */
        SMI_STORE(&w->now.size, w->flight.size);
        w->flight.bytes = NULL;
        SMI_STORE(&w->flight.size, (size_t)0);
    }
    if (goal > w->now.size && share != SIZE_MAX) { /* little more is not worth a new buffer */
        uint64_t held = SMI_LOAD(&smi_writer_bytes), budget = SMI_LOAD(&smi_writer_budget);
        uint64_t might = (budget > held ? budget - held : 0) + w->now.size;
        bool worth = might >= SMI_WRITER_FLOOR && might >= 2 * (uint64_t)w->now.size;
        if (might < goal) goal = worth ? (size_t)might : w->now.size;
    }
    if (goal != w->now.size) {
        size_t least = goal < SMI_WRITER_FLOOR ? goal : (size_t)SMI_WRITER_FLOOR;
        if (!smi_writer_resize(w, least, goal, false, call) && share == SIZE_MAX) /* not again at each flush */
            w->wish = w->now.size > 0 ? w->now.size : w->desc.min_bytes;
    }
    smi_writer_quicken(w);
}

/* The first buffer: as large as the budget has left, half of that and so on where memory is short, down to min_bytes. */
static bool smi_writer_first(sagemem_writer *w, const char *call) {
    size_t least = w->desc.min_bytes < SMI_WRITER_FLOOR ? w->desc.min_bytes : (size_t)SMI_WRITER_FLOOR;
    /* Where there is a budget, others are to find something, too: a flush brings each to its share. */
    size_t size = smi_writer_claim(least, SMI_LOAD(&smi_writer_budget) > 0 ? w->desc.min_bytes : w->wish);
    if (size == 0) return true; /* it writes through */
    while (size > w->desc.min_bytes) {
        if (smi_writer_take(w, size, false, call)) return true;
        size = smi_writer_claim(least, size / 2 > w->desc.min_bytes ? size / 2 : w->desc.min_bytes);
        if (size == 0) return true;
    }
    return smi_writer_take(w, size, true, call);
}

/* An adaptive writer learns from what a flush finds. */
static void smi_writer_learn(sagemem_writer *w, bool full) {
    if (!w->desc.adaptive) return;
    bool little = !full && w->now.used < w->now.size / 4;
    if (full) w->habit = w->habit < 0 ? 1 : w->habit + 1;
    else w->habit = !little ? 0 : w->habit > 0 ? -1 : w->habit - 1;
    if (w->habit >= SMI_WRITER_HABIT) w->wish = w->wish > w->desc.max_bytes / 2 ? w->desc.max_bytes : w->wish * 2;
    if (w->habit <= -SMI_WRITER_HABIT) w->wish = w->wish / 2 < w->desc.min_bytes ? w->desc.min_bytes : w->wish / 2;
    if (w->habit >= SMI_WRITER_HABIT || w->habit <= -SMI_WRITER_HABIT) w->habit = 0;
}

/* Makes the buffer empty, and of the right size. */
static sagemem_status smi_writer_turn(sagemem_writer *w, const char *call) {
    if (w->now.used > 0) {
        smi_writer_learn(w, true);
        sagemem_status status = w->threaded ? smi_writer_hand_over(w, call) : smi_writer_drain(w, call);
        if (status != SAGEMEM_OK) return status;
    }
    smi_writer_fit(w, call);
    return SAGEMEM_OK;
}

/* Whether `size` bytes more go into the buffer as it is. */
static bool smi_writer_has_room(const sagemem_writer *w, size_t size) {
    return w->now.bytes != NULL && size <= w->now.size - w->now.used && w->now.size <= smi_writer_share();
}

/* -- Writers: opening. */

static sagemem_status smi_writer_resolve(sagemem_writer_desc *d, const char *call) {
    int targets = (d->path != NULL) + (d->fd_plus_one != 0) + (d->sink != NULL);
    if (targets != 1 || d->fd_plus_one < 0 || (d->sink != NULL && d->sink->write_fn == NULL))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "a writer has one target: a path, a descriptor plus one, or a sink with a write_fn; %d were given",
                        targets);
    if ((d->atomic && (d->path == NULL || d->offset > 0)) || d->offset > INT64_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "atomic replaces a whole file: it needs a path and offset 0; offset %llu; offsets end at 2^63",
                        (unsigned long long)d->offset);
    if ((unsigned)d->sync > SAGEMEM_SYNC_EVERY_FLUSH || (d->sync != SAGEMEM_SYNC_NONE && d->sink != NULL))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "sync %d: use SAGEMEM_SYNC_NONE, _AT_CLOSE, _EVERY_FLUSH; of a sink, _NONE",
                        (int)d->sync);
    if (d->tag > SAGEMEM_TAG_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "tag %u is above SAGEMEM_TAG_MAX; use an enum from 1 to %d, or sagemem_tag_named", d->tag,
                        SAGEMEM_TAG_USER_MAX);
    size_t largest = d->initial_bytes > d->min_bytes ? d->initial_bytes : d->min_bytes;
    if (d->max_bytes == 0) d->max_bytes = largest > SMI_WRITER_MOST ? largest : (size_t)SMI_WRITER_MOST;
    if (d->initial_bytes == 0)
        d->initial_bytes = d->min_bytes > SMI_WRITER_INITIAL   ? d->min_bytes
                           : d->max_bytes < SMI_WRITER_INITIAL ? d->max_bytes
                                                               : (size_t)SMI_WRITER_INITIAL;
    if (d->min_bytes == 0) d->min_bytes = d->initial_bytes < SMI_WRITER_LEAST ? d->initial_bytes : (size_t)SMI_WRITER_LEAST;
    if (d->min_bytes <= d->initial_bytes && d->initial_bytes <= d->max_bytes) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "min_bytes %zu, initial_bytes %zu and max_bytes %zu must rise", d->min_bytes,
                    d->initial_bytes, d->max_bytes);
}

static char *smi_writer_copy(sagemem_writer *w, const char *text, const char *call) {
    char *copy = (char *)smi_object_alloc(&w->object, 16, strlen(text) + 1, w->desc.tag, false, call);
    if (copy != NULL) memcpy(copy, text, strlen(text) + 1);
    return copy;
}

/* What one name in the directory of an atomic target must look like to be a file that a writer left beside it. */
typedef struct smi_writer_leftovers {
    const sagemem_writer *w;
    const char *name; /* of the target, */
    size_t directory; /* which begins there in w->target; bytes of what is in front */
} smi_writer_leftovers;

static size_t smi_writer_stem(char *text, size_t size, const char *name) {
    int length = snprintf(text, size, ".%.*s.sagemem-", SMI_WRITER_NAME, name);
    return length > 0 ? (size_t)length : 0;
}

/* A writer of this process has it open. */
static bool smi_writer_has_number(uint32_t number) {
    smi_lock_take(&smi_layers_lock);
    const sagemem_writer *w = smi_writer_newest;
    while (w != NULL && (w->beside == NULL || w->beside_number != number || w->forks != smi_os_forks)) w = w->older;
    smi_lock_give(&smi_layers_lock);
    return w != NULL;
}

/* Removes a file that a writer left beside the target, if that writer is dead: nobody holds the file. Where files cannot be
 * held, its process must be gone. */
static void smi_writer_clean(void *ctx, const char *name) {
    const smi_writer_leftovers *l = (const smi_writer_leftovers *)ctx;
    char stem[SMI_WRITER_NAME + 32], path[SMI_WRITER_PATH];
    size_t length = smi_writer_stem(stem, sizeof stem, l->name);
    if (strncmp(name, stem, length) != 0 || name[length] < '0' || name[length] > '9') return;
    char *end;
    unsigned long process = strtoul(name + length, &end, 10);
    if (*end != '-' || end[1] < '0' || end[1] > '9') return;
    unsigned long number = strtoul(end + 1, &end, 10);
    if (*end != '\0' || l->directory + strlen(name) >= sizeof path) return;
    memcpy(path, l->w->target, l->directory);
    memcpy(path + l->directory, name, strlen(name) + 1);
    bool mine = process == smi_os_process_id();
    if (mine && smi_writer_has_number((uint32_t)number)) return;
    smi_os_info info;
    smi_os_handle handle;
    if (!smi_os_open_regular(&handle, path, true, &info) || !info.regular) return;
    smi_os_hold hold = smi_os_hold_file(handle);
    bool dead = hold == SMI_OS_HOLD_MINE || (hold == SMI_OS_HOLD_NONE && (mine || !smi_os_process_lives((unsigned)process)));
    if (dead && smi_os_info_of(handle, &info) && !info.unlinked) smi_os_unlink(path);
    smi_os_close(handle);
}

/* One attempt at making the new file; *again: the name is taken, or somebody cleans up just there. */
static sagemem_status smi_writer_make_beside(sagemem_writer *w, unsigned permissions, bool *again, const char *call) {
    const char *remedy = "look at the directory's permissions and space";
    smi_os_info info;
    *again = false;
    if (!smi_os_open(&w->handle, w->beside, SMI_OS_NEW, permissions)) {
        w->handle = smi_os_no_handle();
        *again = smi_os_is_there(smi_os_error());
        return *again ? SAGEMEM_E_IO : smi_fail_file(call, w->beside, remedy, "making the new file");
    }
    smi_os_hold hold = smi_os_hold_file(w->handle);
    if (smi_os_info_of(w->handle, &info)) {
        if (hold != SMI_OS_HOLD_OTHERS && !info.unlinked) return SAGEMEM_OK;
        *again = true;
    } else {
        smi_fail_file(call, w->beside, remedy, "looking at the new file");
        smi_os_unlink(w->beside);
    }
    smi_os_close(w->handle);
    w->handle = smi_os_no_handle();
    return SAGEMEM_E_IO;
}

/* The new file of an atomic writer, beside the one that it will replace, with its permissions. */
static sagemem_status smi_writer_open_beside(sagemem_writer *w, const char *call) {
    char stem[SMI_WRITER_NAME + 32];
    smi_os_info old;
    bool replaces = smi_os_info_at(w->target, &old), again = true;
    if (!replaces && !smi_os_is_missing(smi_os_error()))
        return smi_fail_file(call, w->path, "look at its permissions", "looking at the file to replace");
    if (replaces && !old.regular)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "%.150s is no regular file: an atomic writer replaces it; write without",
                        w->path);
    smi_writer_leftovers l = {w, smi_os_name_in(w->target), 0};
    l.directory = (size_t)(l.name - w->target);
    smi_writer_stem(stem, sizeof stem, l.name);
    char directory[SMI_WRITER_PATH];
    memcpy(directory, w->target, l.directory);
    directory[l.directory] = '\0';
    smi_os_each_name(directory, smi_writer_clean, &l);
    size_t room = l.directory + strlen(stem) + 32;
    w->beside = (char *)smi_object_alloc(&w->object, 16, room, w->desc.tag, false, call);
    if (w->beside == NULL) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_E_IO;
    while (again) {
        w->beside_number = __atomic_add_fetch(&smi_writer_number, 1, __ATOMIC_RELAXED);
        smi_text(w->beside, room, "%s%s%u-%u", directory, stem, smi_os_process_id(), (unsigned)w->beside_number);
        status = smi_writer_make_beside(w, replaces ? old.permissions & 0777u : 0666u, &again, call);
    }
    if (status != SAGEMEM_OK) {
        smi_free_slow(w->beside, smi_nowhere, call);
        w->beside = NULL; /* there is none to remove */
    } else if (replaces && !smi_os_set_permissions(w->handle, old.permissions & 0777u)) {
        status = smi_fail_file(call, w->beside, "write without atomic", "giving it the permissions of the file it replaces");
    }
    w->positioned = w->emptied = true;
    return status;
}

static sagemem_status smi_writer_open_path(sagemem_writer *w, const char *call) {
    const char *remedy = "look at the path, its permissions, and the space there";
    smi_os_info info;
    if (!smi_os_open(&w->handle, w->path, SMI_OS_WRITE, 0666)) {
        w->handle = smi_os_no_handle();
        return smi_fail_file(call, w->path, remedy, "opening it to write");
    }
    if (!smi_os_info_of(w->handle, &info)) return smi_fail_file(call, w->path, remedy, "looking at it");
    w->positioned = info.seekable;
    w->emptied = info.regular && w->desc.offset == 0;
    if (w->emptied && info.size > 0 && !smi_os_truncate(w->handle, 0)) {
        w->emptied = false;
        return smi_fail_file(call, w->path, remedy, "emptying it");
    }
    return SAGEMEM_OK;
}

static sagemem_status smi_writer_open_fd(sagemem_writer *w, const char *call) {
    smi_os_info info;
    int fd = w->desc.fd_plus_one - 1;
    if (!smi_os_duplicate(&w->handle, fd)) {
        w->handle = smi_os_no_handle();
        return smi_fail_file(call, NULL, "pass one that is open, plus one", "duplicating number %d", fd);
    }
    if (!smi_os_info_of(w->handle, &info)) return smi_fail_file(call, NULL, "pass another", "looking at number %d", fd);
    if (!info.writable || info.directory)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "descriptor %d is not open for writing; open it so", fd);
    w->positioned = info.seekable && !info.appends;
    return SAGEMEM_OK;
}

static sagemem_status smi_writer_open_target(sagemem_writer *w, const char *call) {
    if (w->desc.sink != NULL) return SAGEMEM_OK;
    if (w->desc.path == NULL) return smi_writer_open_fd(w, call);
    return w->desc.atomic ? smi_writer_open_beside(w, call) : smi_writer_open_path(w, call);
}

/* The memory first: a file is not emptied for a writer that then cannot be made. */
static sagemem_status smi_writer_prepare(sagemem_writer *w, const char *call) {
    char real[SMI_WRITER_PATH];
    const char *path = w->desc.path;
    if (path != NULL && (w->path = smi_writer_copy(w, path, call)) == NULL) return smi_mine.error.status;
    if (w->desc.atomic) {
        SMI_ASSUME(path != NULL); /* an atomic writer without one was refused */
        if (!smi_os_real_target(path, real, sizeof real))
            return smi_fail_file(call, path, "look at the path", "finding where it leads");
        if (*smi_os_name_in(real) == '\0' || *smi_os_name_in(path) == '\0')
            return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "'%.150s' names no file: pass the name of one", path);
        if ((w->target = smi_writer_copy(w, real, call)) == NULL) return smi_mine.error.status;
    }
    w->desc.path = w->path;
    if (!smi_writer_first(w, call)) return smi_mine.error.status;
    sagemem_status status = smi_writer_open_target(w, call);
    if (status != SAGEMEM_OK || !w->desc.background) return status;
    smi_lock_init(&w->lock);
    smi_condition_init(&w->changed);
    w->threaded = smi_os_thread_start(&w->thread, smi_writer_thread, w); /* without, the caller writes */
    if (!w->threaded) smi_condition_deinit(&w->changed);
    w->desc.background = w->threaded;
    return SAGEMEM_OK;
}

/* What the process leaves unwritten when it ends through exit(). */
static void smi_writer_at_exit(void) {
    smi_lock_take(&smi_layers_lock);
    for (const sagemem_writer *w = smi_writer_newest; w != NULL; w = w->older) {
        uint64_t pending = smi_writer_pending(&w->flight) + smi_writer_pending(&w->now);
        if (w->forks == smi_os_forks && pending > 0)
            smi_log(SAGEMEM_LOG_ERROR, "exit: the writer of %s was not closed: %llu bytes that it accepted are lost",
                    smi_writer_name(w), (unsigned long long)pending);
    }
    smi_lock_give(&smi_layers_lock);
}

static void smi_writer_list(sagemem_writer *w) {
    static bool watched;
    smi_object_file(&w->object, smi_writer_name(w));
    smi_lock_take(&smi_layers_lock);
    if (!watched) watched = atexit(smi_writer_at_exit) == 0;
    w->older = smi_writer_newest;
    if (w->older != NULL) w->older->newer = w;
    smi_writer_newest = w;
    w->listed = true;
    SMI_STORE(&smi_writer_buffers, smi_writer_buffers + (w->threaded ? 2 : 1));
    smi_writer_press();
    smi_lock_give(&smi_layers_lock);
}
static void smi_writer_unlist(sagemem_writer *w) {
    if (!w->listed) return;
    smi_lock_take(&smi_layers_lock);
    if (w->newer != NULL) w->newer->older = w->older;
    else smi_writer_newest = w->older;
    if (w->older != NULL) w->older->newer = w->newer;
    SMI_STORE(&smi_writer_buffers, smi_writer_buffers - (w->threaded ? 2 : 1));
    smi_lock_give(&smi_layers_lock);
}

/* -- Writers: the end. */

/* Nothing accepted is lost silently. */
static void smi_writer_mourn(const sagemem_writer *w) {
    uint64_t accepted = smi_writer_accepted(w), kept = w->desc.atomic ? w->desc.offset : smi_writer_written(w);
    if (accepted > kept)
        smi_log(SAGEMEM_LOG_ERROR,
                "the writer of %s was not closed before its scope or heap ended: %llu of %llu bytes that it accepted are lost%s",
                smi_writer_name(w), (unsigned long long)(accepted - kept), (unsigned long long)(accepted - w->desc.offset),
                w->desc.atomic ? ", the file is as it was" : "");
}

/* What a failed call has left behind the bytes that count; nobody is there to be told when that fails, too. */
static void smi_writer_cut(const sagemem_writer *w) {
    unsigned long long written = smi_writer_written(w);
    if (smi_os_truncate(w->handle, written) || w->desc.atomic) return;
    smi_log(SAGEMEM_LOG_ERROR, "%.120s could not be cut to the %llu bytes that were written to it (%s): do not use what follows",
            smi_writer_name(w), written, smi_os_error_text(smi_os_error()));
}

/* Of a file that was kept at the start, what a failed call left behind the end stays: it may be somebody else's. */
static void smi_writer_end(smi_object *o) {
    sagemem_writer *w = (sagemem_writer *)o;
    bool ours = w->forks == smi_os_forks; /* in the child of a fork, all but the memory is the parent's */
    SMI_STORE(&w->quick, NULL);           /* for a call on the writer that has ended */
    if (w->threaded && ours) {
        smi_lock_take(&w->lock);
        w->quit = true;
        smi_condition_wake_all(&w->changed);
        smi_lock_give(&w->lock);
        smi_os_thread_join(&w->thread);
        smi_condition_deinit(&w->changed);
    }
    bool dropped = ours && w->listed && !w->closed;
    if (dropped && !w->renamed && !w->abandoned) smi_writer_mourn(w);
    if (dropped && w->emptied && w->reach > smi_writer_written(w)) smi_writer_cut(w);
    if (dropped && w->desc.sink != NULL && w->sink.close_fn != NULL) (void)w->sink.close_fn(w->sink.ctx);
    if (w->handle != smi_os_no_handle()) smi_os_close(w->handle);
    if (ours && w->beside != NULL && !w->renamed) smi_os_unlink(w->beside);
    smi_writer_unlist(w);
    smi_writer_release(&w->now, 0);
    smi_writer_release(&w->flight, 0);
    smi_free_slow(w->beside, smi_nowhere, "writer");
    smi_free_slow(w->target, smi_nowhere, "writer");
    smi_free_slow(w->path, smi_nowhere, "writer");
}

static void smi_writer_finish(sagemem_writer *w) {
    smi_domain *heap = w->object.domain->base;
    smi_object_end(&w->object);
    smi_leave(heap);
}

static void smi_writer_check_part(const sagemem_writer *w, const smi_writer_part *p, const char *what, smi_check_ctx *c) {
    char text[SMI_WHY + 120];
    size_t done = SMI_LOAD(&p->done);
    bool good = done <= p->used && p->used <= p->size && (p->bytes == NULL ? p->size == 0 : p->size <= sagemem_size(p->bytes));
    if (good) return;
    smi_text(text, sizeof text, "the writer of %.120s is damaged: %s %p of %zu bytes, %zu used, %zu done", smi_writer_name(w), what,
             (const void *)p->bytes, p->size, p->used, done);
    smi_damage(c, text);
}

static size_t smi_writer_check(const smi_object *o, const char *call) {
    const sagemem_writer *w = (const sagemem_writer *)o;
    smi_check_ctx c = {call, 0};
    char text[SMI_WHY];
    smi_writer_check_part(w, &w->now, "buffer", &c);
    smi_writer_check_part(w, &w->flight, "second buffer", &c);
    if (w->flight.used > 0 && w->flight.base + w->flight.used != w->now.base) {
        smi_text(text, sizeof text, "the writer of %.120s is damaged: its buffers do not follow each other", smi_writer_name(w));
        smi_damage(&c, text);
    }
    return c.damaged;
}

/* -- Writers: the calls. */

/* What every call but abandon and the queries asks first; it ends what write_begin began. */
static sagemem_status smi_writer_ready(sagemem_writer *w, const char *call) {
    if (w->begun && smi_watched && w->now.bytes != NULL) smi_watch_shut(w->now.bytes + w->now.used, w->now.size - w->now.used);
    w->begun = false;
    if (w->forks != smi_os_forks)
        return smi_fail(SAGEMEM_E_BUSY, 0, call,
                        "the writer of %.120s was opened before the fork: it is the parent's; open one here", smi_writer_name(w));
    if (w->final != SAGEMEM_OK)
        return smi_fail(
            w->final, w->final_error, call,
            "%.100s: what was written may not have arrived, and no repetition can tell; abandon the writer, and write all "
            "of it again",
            smi_writer_name(w));
    return SAGEMEM_OK;
}
/* And those that write. */
static sagemem_status smi_writer_ready_to_write(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_ready(w, call);
    if (status != SAGEMEM_OK || !w->renamed) return status;
    return smi_fail(SAGEMEM_E_CLOSED, 0, call, "%.120s is in its place, only its directory is not synced: close again, or abandon",
                    smi_writer_name(w));
}

SAGEMEM_API sagemem_writer *sagemem_writer_open(const sagemem_writer_desc *desc) {
    const char *call = "sagemem_writer_open";
    if (desc == NULL) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "desc is NULL: pass one with a path, a descriptor plus one, or a sink");
        return NULL;
    }
    sagemem_writer_desc d = *desc;
    if (smi_writer_resolve(&d, call) != SAGEMEM_OK) return NULL;
    sagemem_writer *w = (sagemem_writer *)smi_object_create(d.heap, &smi_writer_kind, NULL, call);
    if (w == NULL) return NULL;
    if (d.sink != NULL) w->sink = *d.sink;
    if (d.sink != NULL) d.sink = &w->sink;
    w->desc = d;
    w->desc.heap = w->object.domain->base;
    w->zero = (w->desc.heap->flags & SAGEMEM_HEAP_ZERO) != 0;
    w->forks = smi_os_forks;
    w->handle = smi_os_no_handle();
    w->wish = d.initial_bytes;
    w->now.base = d.offset;
    if (smi_writer_prepare(w, call) != SAGEMEM_OK) {
        sagemem_error why = smi_mine.error;
        smi_writer_finish(w);
        smi_mine.error = why;
        return NULL;
    }
    smi_writer_list(w);
    smi_writer_quicken(w);
    SMI_STORE(&w->quick, &smi_writer_kind);
    smi_object_leave(&w->object);
    return w;
}

SAGEMEM_API sagemem_status sagemem_writer_get_desc(const sagemem_writer *writer, sagemem_writer_desc *out) {
    const char *call = "sagemem_writer_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass where the desc goes");
    if (!smi_object_enter(writer, &smi_writer_kind, call)) return smi_mine.error.status;
    *out = writer->desc;
    out->initial_bytes = writer->now.size;
    smi_object_leave(&writer->object);
    return SAGEMEM_OK;
}

static void smi_writer_append(sagemem_writer *w, const void *data, size_t size) {
    char *at = w->now.bytes + w->now.used;
    if (smi_watched) smi_watch_fresh(at, size);
    memcpy(at, data, size);
    SMI_STORE(&w->now.used, w->now.used + size);
}

/* Writes without the buffer, which is empty: what is larger, or when there is none. */
static sagemem_status smi_writer_through(sagemem_writer *w, const char *data, size_t size, const char *call) {
    size_t put;
    uint64_t position = w->now.base;
    sagemem_status status = smi_writer_put_here(w, data, size, position, &put);
    if (status == SAGEMEM_OK || (!w->positioned && w->desc.sink == NULL)) w->now.base += put; /* a pipe gives nothing back */
    else if (position + put > w->reach) w->reach = position + put;
    return status == SAGEMEM_OK ? status : smi_writer_refused(w, status, call, size - put, position + put);
}

static sagemem_status smi_writer_write_entered(sagemem_writer *w, const void *data, size_t size, const char *call) {
    sagemem_status status = smi_writer_ready_to_write(w, call);
    if (status != SAGEMEM_OK || size == 0) return status;
    if (data == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "data is NULL, but %zu bytes are to be written", size);
    if (size > UINT64_MAX / 2 - smi_writer_accepted(w))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%zu bytes at %llu: offsets end at 2^63", size,
                        (unsigned long long)smi_writer_accepted(w));
    if (w->now.bytes != NULL && size >= w->now.size) {
        status = smi_writer_drain(w, call);
        if (status == SAGEMEM_OK) smi_writer_fit(w, call);
    } else if (!smi_writer_has_room(w, size)) {
        status = smi_writer_turn(w, call);
    }
    if (status == SAGEMEM_OK && size < w->now.size && smi_writer_has_room(w, size)) {
        smi_writer_append(w, data, size);
        return status;
    }
    if (status == SAGEMEM_OK) status = smi_writer_drain(w, call);
    return status == SAGEMEM_OK ? smi_writer_through(w, (const char *)data, size, call) : status;
}

/* Apart, so that the short path saves no registers. */
SMI_NOINLINE sagemem_status smi_writer_write_slow(sagemem_writer *w, const void *data, size_t size) {
    const char *call = "sagemem_write";
    if (!smi_object_enter_alone(w, &smi_writer_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_writer_write_entered(w, data, size, call);
    smi_object_leave(&w->object);
    return status;
}

/* What smi_object_enter finds in the ordinary case: a live writer in a heap of the calling thread's own, and not a parent's. That a
 * writer's structure is where the library keeps its own, is believed of what is aligned like one: the page map is not asked. */
SMI_INLINE bool smi_writer_quick(const sagemem_writer *w) {
    return w != NULL && ((uintptr_t)w & 63) == 0 && SMI_LOAD(&w->quick) == &smi_writer_kind &&
           smi_is_self(SMI_LOAD(&w->desc.heap->owner)) && w->forks == smi_os_forks;
}

SAGEMEM_API sagemem_status sagemem_write(sagemem_writer *writer, const void *data, size_t size) {
    if (SMI_UNLIKELY(!smi_writer_quick(writer) || data == NULL)) return smi_writer_write_slow(writer, data, size);
    size_t used = writer->now.used, fast = SMI_LOAD(&writer->fast);
    if (SMI_UNLIKELY(size >= fast || used > fast - size)) return smi_writer_write_slow(writer, data, size);
    writer->begun = false;
    SMI_STORE(&writer->now.used, used + size);
    memcpy(writer->now.bytes + used, data, size);
    return SAGEMEM_OK;
}

/* A larger buffer for a record that does not fit into the empty one. */
static sagemem_status smi_writer_grow(sagemem_writer *w, size_t size, const char *call) {
    size_t most = w->desc.max_bytes, goal = size > most - size / 2 ? most : size + size / 2; /* the next may be a little larger */
    if (goal < w->wish) goal = w->wish;
    bool grown = smi_writer_resize(w, size, goal, true, call);
    if (grown) w->wish = w->now.size;
    smi_writer_quicken(w);
    return grown ? SAGEMEM_OK : smi_mine.error.status;
}

static void *smi_writer_room(sagemem_writer *w, size_t size, const char *call) {
    sagemem_status status = smi_writer_ready_to_write(w, call);
    size_t need = size > 0 ? size : 1;
    if (status == SAGEMEM_OK && size > w->desc.max_bytes)
        status = smi_fail(SAGEMEM_E_TOO_BIG, 0, call, "a record of %zu bytes is larger than max_bytes, %zu; use sagemem_write",
                          size, w->desc.max_bytes);
    if (status == SAGEMEM_OK && !smi_writer_has_room(w, need)) {
        status = smi_writer_turn(w, call);
        if (status == SAGEMEM_OK && need > w->now.size) status = smi_writer_grow(w, need, call);
    }
    if (status != SAGEMEM_OK) return NULL;
    char *room = w->now.bytes + w->now.used;
    if (smi_watched) smi_watch_fresh(room, size);
    if (w->zero) memset(room, 0, size); /* gaps in records are the same in each run */
    w->begun = true;
    w->begun_bytes = size;
    return room;
}

SMI_NOINLINE void *smi_writer_begin_slow(sagemem_writer *w, size_t size) {
    const char *call = "sagemem_write_begin";
    if (!smi_object_enter_alone(w, &smi_writer_kind, call)) return NULL;
    void *room = smi_writer_room(w, size, call);
    smi_object_leave(&w->object);
    return room;
}

SAGEMEM_API void *sagemem_write_begin(sagemem_writer *writer, size_t size) {
    if (SMI_UNLIKELY(!smi_writer_quick(writer) || writer->zero)) return smi_writer_begin_slow(writer, size);
    size_t used = writer->now.used, fast = SMI_LOAD(&writer->fast);
    if (SMI_UNLIKELY(size >= fast || used > fast - size)) return smi_writer_begin_slow(writer, size);
    writer->begun = true;
    writer->begun_bytes = size;
    return writer->now.bytes + used;
}

SMI_NOINLINE void smi_writer_end_slow(sagemem_writer *w, size_t used) {
    const char *call = "sagemem_write_end";
    if (!smi_object_enter_alone(w, &smi_writer_kind, call)) return;
    bool begun = w->begun, fits = used <= w->begun_bytes;
    if (begun && fits && w->forks == smi_os_forks) SMI_STORE(&w->now.used, w->now.used + used);
    if (smi_writer_ready(w, call) == SAGEMEM_OK) {
        if (!begun)
            smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call, "no record was begun since the last call on the writer of %.100s",
                      smi_writer_name(w));
        else if (!fits)
            smi_fault(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, call, "%zu bytes were built in room for %zu; begin with as many", used,
                      w->begun_bytes);
    }
    smi_object_leave(&w->object);
}

SAGEMEM_API void sagemem_write_end(sagemem_writer *writer, size_t used) {
    if (SMI_UNLIKELY(!smi_writer_quick(writer) || !writer->begun || used > writer->begun_bytes || SMI_LOAD(&writer->fast) == 0)) {
        smi_writer_end_slow(writer, used);
        return;
    }
    writer->begun = false;
    SMI_STORE(&writer->now.used, writer->now.used + used);
}

/* What of the bytes is still in this buffer. */
static void smi_writer_patch_part(smi_writer_part *p, uint64_t position, const char *data, uint64_t end) {
    uint64_t from = position > p->base ? position : p->base, part_end = p->base + p->used, to = end < part_end ? end : part_end;
    SMI_ASSUME(from >= to || (p->bytes != NULL && data != NULL));
    if (from < to) memcpy(p->bytes + (size_t)(from - p->base), data + (size_t)(from - position), (size_t)(to - from));
}

static sagemem_status smi_writer_patch(sagemem_writer *w, uint64_t position, const char *data, size_t size, const char *call) {
    sagemem_status status = smi_writer_ready_to_write(w, call);
    if (status != SAGEMEM_OK) return status;
    uint64_t accepted = smi_writer_accepted(w), end = position + size, written;
    if ((data == NULL && size > 0) || position < w->desc.offset || position > accepted || size > accepted - position)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "%zu bytes at %llu are not all among those accepted, %llu to %llu; positions are absolute", size,
                        (unsigned long long)position, (unsigned long long)w->desc.offset, (unsigned long long)accepted);
    if (position < w->now.base) smi_writer_wait(w);
    written = smi_writer_written(w);
    if (position < written) { /* first what can fail */
        size_t put, old = end < written ? size : (size_t)(written - position);
        if (!w->positioned && w->desc.sink == NULL)
            return smi_fail(
                SAGEMEM_E_UNSUPPORTED, 0, call,
                "position %llu is written already, and %.100s is written in order; patch before the flush, or write to a file",
                (unsigned long long)position, smi_writer_name(w));
        status = old > 0 ? smi_writer_put_here(w, data, old, position, &put) : SAGEMEM_OK;
        if (status != SAGEMEM_OK) return smi_writer_refused(w, status, call, old, position);
    }
    if (position < w->now.base) smi_writer_patch_part(&w->flight, position, data, end);
    smi_writer_patch_part(&w->now, position, data, end);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_writer_patch(sagemem_writer *writer, uint64_t position, const void *data, size_t size) {
    const char *call = "sagemem_writer_patch";
    if (!smi_object_enter_alone(writer, &smi_writer_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_writer_patch(writer, position, (const char *)data, size, call);
    smi_object_leave(&writer->object);
    return status;
}

static sagemem_status smi_writer_sync(sagemem_writer *w, const char *call) {
    bool lost;
    if (smi_os_sync(w->handle, &lost)) return SAGEMEM_OK;
    sagemem_status status =
        smi_fail_file(call, smi_writer_name(w), lost ? "abandon, and write it again" : "repeat the call", "syncing it");
    return lost ? smi_writer_finish_with(w, status) : status;
}

static sagemem_status smi_writer_flush(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_ready_to_write(w, call);
    if (status != SAGEMEM_OK) return status;
    smi_writer_learn(w, false);
    status = smi_writer_drain(w, call);
    if (status == SAGEMEM_OK) smi_writer_fit(w, call);
    return status == SAGEMEM_OK && w->desc.sync == SAGEMEM_SYNC_EVERY_FLUSH ? smi_writer_sync(w, call) : status;
}

SAGEMEM_API sagemem_status sagemem_writer_flush(sagemem_writer *writer) {
    const char *call = "sagemem_writer_flush";
    if (!smi_object_enter_alone(writer, &smi_writer_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_writer_flush(writer, call);
    smi_object_leave(&writer->object);
    return status;
}

/* The bytes of a file, as far as the desc asks. */
static sagemem_status smi_writer_close_bytes(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_drain(w, call);
    if (status != SAGEMEM_OK || w->desc.sink != NULL) return status;
    bool lost;
    if (w->emptied && w->reach > w->now.base) {
        if (!smi_os_truncate(w->handle, w->now.base))
            return smi_fail_file(call, smi_writer_name(w), smi_writer_remedy, "cutting off what a failed call has left");
        w->reach = w->now.base;
    }
    if (w->desc.sync != SAGEMEM_SYNC_NONE && (status = smi_writer_sync(w, call)) != SAGEMEM_OK) return status;
    if (smi_os_settle(w->handle, &lost)) return SAGEMEM_OK;
    status = smi_fail_file(call, smi_writer_name(w), lost ? "abandon, and write it again" : "close again", "closing it");
    return lost ? smi_writer_finish_with(w, status) : status;
}

/* The name of an atomic file. */
static sagemem_status smi_writer_close_name(sagemem_writer *w, const char *call) {
    if (!w->renamed && !smi_os_rename(w->beside, w->target))
        return smi_fail_file(call, w->path, "close again, or abandon", "putting the new file into its place");
    w->renamed = true;
    SMI_STORE(&w->fast, (size_t)0);
    if (w->desc.sync == SAGEMEM_SYNC_NONE || smi_os_sync_directory_of(w->target)) return SAGEMEM_OK;
    return smi_fail_file(call, w->path, "the file is in its place; close again, or abandon", "syncing its directory");
}

static sagemem_status smi_writer_close_sink(sagemem_writer *w, const char *call) {
    char why[130];
    smi_mine.error.status = SAGEMEM_OK;
    sagemem_status status = w->sink.close_fn(w->sink.ctx);
    w->sink.close_fn = NULL; /* once */
    if (status == SAGEMEM_OK) return status;
    int reason = smi_writer_sink_says(status, why, sizeof why);
    smi_fail(status, reason, call, "the sink's close_fn said %s; it took all bytes; abandon the writer", why);
    return smi_writer_finish_with(w, status);
}

static sagemem_status smi_writer_close(sagemem_writer *w, const char *call) {
    sagemem_status status = smi_writer_ready(w, call);
    if (status == SAGEMEM_OK && !w->renamed) status = smi_writer_close_bytes(w, call);
    if (status == SAGEMEM_OK && w->desc.atomic) status = smi_writer_close_name(w, call);
    if (status == SAGEMEM_OK && w->desc.sink != NULL && w->sink.close_fn != NULL) status = smi_writer_close_sink(w, call);
    return status;
}

SAGEMEM_API sagemem_status sagemem_writer_close(sagemem_writer *writer) {
    const char *call = "sagemem_writer_close";
    if (writer == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "writer is NULL: did sagemem_writer_open fail?");
    if (!smi_object_enter_alone(writer, &smi_writer_kind, call)) return smi_mine.error.status;
    sagemem_status status = smi_writer_close(writer, call);
    if (status == SAGEMEM_OK) {
        writer->closed = true;
        smi_writer_finish(writer);
    } else {
        smi_object_leave(&writer->object);
    }
    return status;
}

SAGEMEM_API void sagemem_writer_abandon(sagemem_writer *writer) {
    if (writer == NULL || !smi_object_enter_alone(writer, &smi_writer_kind, "sagemem_writer_abandon")) return;
    writer->abandoned = true;
    smi_writer_finish(writer);
}

SAGEMEM_API uint64_t sagemem_writer_accepted(const sagemem_writer *writer) {
    if (!smi_object_enter(writer, &smi_writer_kind, "sagemem_writer_accepted")) return 0;
    uint64_t bytes = smi_writer_accepted(writer) - writer->desc.offset;
    smi_object_leave(&writer->object);
    return bytes;
}

SAGEMEM_API uint64_t sagemem_writer_written(const sagemem_writer *writer) {
    if (!smi_object_enter(writer, &smi_writer_kind, "sagemem_writer_written")) return 0;
    uint64_t bytes = smi_writer_written(writer) - writer->desc.offset;
    smi_object_leave(&writer->object);
    return bytes;
}

SAGEMEM_API void sagemem_writers_set_budget(uint64_t bytes) {
    smi_lock_take(&smi_layers_lock);
    SMI_STORE(&smi_writer_budget, bytes);
    smi_writer_press();
    smi_lock_give(&smi_layers_lock);
}

SAGEMEM_API sagemem_status sagemem_writers_get_stats(sagemem_writers_stats *out) {
    if (out == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, "sagemem_writers_get_stats", "out is NULL: pass where the statistics go");
    memset(out, 0, sizeof *out);
    smi_lock_take(&smi_layers_lock);
    for (const sagemem_writer *w = smi_writer_newest; w != NULL; w = w->older) {
        out->writers++;
        out->buffered += smi_writer_pending(&w->flight) + smi_writer_pending(&w->now);
    }
    out->buffer_bytes = smi_writer_bytes;
    out->budget = smi_writer_budget;
    smi_lock_give(&smi_layers_lock);
    return SAGEMEM_OK;
}

/* -- Readers -----------------------------------------------------------------------------------------------------
 *    A reader sees its input through a window of bytes that lie ready: the short path of every call is one comparison, and
 *    the copy. What comes behind it:
 *
 *        consumed | at ... window ... end | rest ... rest_end | what the input gives next
 *                                         ^ offset
 *
 *    map        the window is the file. With read_ahead it is widened in steps, and the system asked for the step after
 *    file       pread, into `buffer` or straight to the caller: a descriptor's own position is neither used nor moved
 *    stream     read: pipes, sockets, devices
 *    source     the program's function
 *
 *    With read_ahead a thread fills a ring of buffers; number n lies in ring[n % count]:
 *
 *        released <= taken <= filled <= released + count
 *
 *    released ... taken are the caller's (window and rest are parts of the last one), taken ... filled lie ready, and the thread
 *    fills number `filled`. It stops at the end and at a failure (`halted`), and goes on when it is asked again. A view that
 *    reaches over the end of a buffer is put together in `buffer`, which grows to the largest view.
 *
 *    Where a tool watches, buffers are shut to the program but for the last view, from its call to the next. */

enum {
    SMI_READER_BYTES = 1 << 20,
    SMI_READER_STEP = 1 << 16, /* buffers grow in such steps, and those of small files are no smaller */
    SMI_READER_BUFFERS_MAX = 1024
};

/* Where bytes come from: up to size bytes from `offset` on; *got 0: the end. A failure has given none, and can be repeated. */
typedef struct smi_reader_input {
    sagemem_status (*fetch_fn)(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got, const char *call);
    bool any_offset; /* else only the next one */
    bool is_file;    /* whose size the system tells */
    bool waits;      /* for somebody else to write */
} smi_reader_input;

typedef struct smi_reader_buffer {
    char *data;
    size_t size; /* bytes filled */
} smi_reader_buffer;

/* Reading ahead. What both threads touch is under `lock`, but for the buffers: each is one side's. */
typedef struct smi_reader_ahead {
    smi_os_thread thread;
    smi_lock lock, calls; /* calls: one call of a source at a time */
    smi_condition changed;
    smi_os_bell bell; /* ends the thread's wait for a stream */
    smi_reader_buffer *ring;
    uint32_t count, made;  /* of the ring; buffers that it has */
    bool started, runs;    /* in this process: a child of fork has no such thread; caller's */
    bool rings;            /* there is a bell; caller's */
    bool quits;            /* the thread is to end */
    bool halted, told;     /* the thread met the end or a failure; the caller knows of the failure */
    sagemem_status status; /* OK: the end */
    sagemem_error error;   /* of the thread */
    uint64_t released, taken, filled;
    uint64_t next_offset; /* where the thread reads next */
    uint64_t seeks;       /* how often next_offset was changed by the caller: what was being read then is dropped */
} smi_reader_ahead;

struct sagemem_reader {
    smi_object object;
    const char *at, *end;
    uint64_t offset;
    const char *rest, *rest_end;
    char *buffer; /* the reader's own */
    size_t capacity;
    const smi_reader_input *input;
    smi_os_handle handle;
    sagemem_map *map;
    sagemem_input source;
    char *path; /* NULL: a descriptor or a source */
    size_t path_bytes;
    uint64_t file_size; /* when it was opened */
    uint64_t end_found; /* where a stream or source ended; UINT64_MAX: not yet */
    uint64_t asked;     /* of a map: the system was asked for the bytes in front of this */
    bool opened;        /* completely: from now on the source is closed at the end */
    const char *shown;  /* watched: the last view, */
    size_t shown_bytes; /* and its size */
    uint32_t forks;
    sagemem_reader_desc desc;
    smi_reader_ahead ahead;
};

/* The input in messages. */
static const char *smi_reader_name(const sagemem_reader *r) {
    return r->desc.source != NULL ? "the source" : smi_path_shown(r->path);
}

/* ... and in reports. */
static const char *smi_reader_name_whole(const sagemem_reader *r) {
    return r->desc.source != NULL ? "the source" : r->path != NULL ? r->path : "the descriptor";
}
static void smi_reader_counted(sagemem_reader *r) {
    smi_object_buffered(&r->object, r->capacity + (uint64_t)r->ahead.made * r->desc.buffer_bytes);
}

/* -- What a tool that watches may see -- */

/* Of every buffer that is the caller's, while the library works on them, and after. */
static void smi_reader_watch(const sagemem_reader *r, bool open) {
    if (!smi_watched) return;
    void (*watch)(const void *at, size_t size) = open ? smi_watch_open : smi_watch_shut;
    if (r->buffer != NULL) watch(r->buffer, r->capacity);
    for (uint64_t n = r->ahead.released; n < r->ahead.taken; n++)
        watch(r->ahead.ring[n % r->ahead.count].data, r->desc.buffer_bytes);
}
/* A view ends with the next call. AddressSanitizer knows memory by eights: the part of one that lies in front was consumed. */
static void smi_reader_hide(sagemem_reader *r) {
    if (r->shown == NULL) return;
    size_t in_front = (uintptr_t)r->shown & 7;
    smi_watch_shut(r->shown - in_front, r->shown_bytes + in_front);
    r->shown = NULL;
}
static void smi_reader_show(sagemem_reader *r, const char *view, size_t size) {
    if (!smi_watched || r->map != NULL || size == 0) return;
    smi_watch_open(view, size);
    r->shown = view;
    r->shown_bytes = size;
}

/* Consumes up to size bytes of the window. */
static size_t smi_reader_copy(sagemem_reader *r, char *to, size_t size) {
    size_t n = (size_t)(r->end - r->at) < size ? (size_t)(r->end - r->at) : size;
    if (n == 0) return 0;
    smi_reader_show(r, r->at, n);
    memcpy(to, r->at, n);
    smi_reader_hide(r);
    r->at += n;
    return n;
}

/* -- Inputs -- */

static sagemem_status smi_reader_fetch_map(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got,
                                           const char *call) {
    (void)call;
    uint64_t all = r->file_size, left = offset < all ? all - offset : 0;
    *got = left < size ? (size_t)left : size;
    if (*got > 0) memcpy(to, (const char *)sagemem_map_data(r->map) + (size_t)offset, *got);
    return SAGEMEM_OK;
}

static sagemem_status smi_reader_fetch_file(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got,
                                            const char *call) {
    *got = 0;
    if (offset > (uint64_t)INT64_MAX - SMI_OS_IO_MAX) return SAGEMEM_OK; /* no file goes as far */
    if (smi_os_read_at(r->handle, to, size, offset, got)) return SAGEMEM_OK;
    return smi_fail_file(call, r->path, "the call can be repeated", "reading at byte %llu failed", (unsigned long long)offset);
}

static sagemem_status smi_reader_fetch_stream(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got,
                                              const char *call) {
    if (smi_os_read(r->handle, to, size, got)) return SAGEMEM_OK;
    return smi_fail_file(call, r->path,
                         smi_os_is_again(smi_os_error()) ? "wait for it with poll and repeat the call" : "the call can be repeated",
                         "reading at byte %llu failed", (unsigned long long)offset);
}

/* The program's function may use the library: what it left as the last error is its reason, if the statuses agree. */
static sagemem_status smi_reader_fetch_source(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got,
                                              const char *call) {
    sagemem_error before = smi_mine.error;
    smi_mine.error.status = SAGEMEM_OK;
    *got = 0;
    if (r->ahead.runs) smi_lock_take(&r->ahead.calls);
    sagemem_status status = r->source.read_fn(r->source.ctx, to, size, offset, got);
    if (r->ahead.runs) smi_lock_give(&r->ahead.calls);
    size_t said = *got;
    if (status == SAGEMEM_OK && said <= size) {
        smi_mine.error = before;
        return SAGEMEM_OK;
    }
    *got = 0;
    if (status == SAGEMEM_OK)
        return smi_fail(SAGEMEM_E_CORRUPT, 0, call,
                        "the source's read_fn says it put %zu bytes where %zu were wanted, at byte %llu; it must not put more",
                        said, size, (unsigned long long)offset);
    if (smi_mine.error.status != status)
        smi_fail(status, 0, call, "the source's read_fn returned %s at byte %llu; the call can be repeated",
                 sagemem_status_name(status), (unsigned long long)offset);
    return status;
}

static const smi_reader_input smi_reader_from_map = {smi_reader_fetch_map, true, false, false};
static const smi_reader_input smi_reader_from_file = {smi_reader_fetch_file, true, true, false};
static const smi_reader_input smi_reader_from_stream = {smi_reader_fetch_stream, false, false, true};
static const smi_reader_input smi_reader_from_source = {smi_reader_fetch_source, false, false, false};
static const smi_reader_input smi_reader_from_seekable = {smi_reader_fetch_source, true, false, false};

/* By the caller's thread: a source that used its own reader meanwhile would mix up what comes where. */
static sagemem_status smi_reader_fetch(sagemem_reader *r, void *to, size_t size, uint64_t offset, size_t *got, const char *call) {
    r->object.busy = true;
    sagemem_status status = r->input->fetch_fn(r, to, size, offset, got, call);
    r->object.busy = false;
    return status;
}

/* -- Reading ahead -- */

/* One read of the thread. A stream is waited for in a way that closing the reader can end. */
static sagemem_status smi_reader_fetch_ahead(sagemem_reader *r, void *to, uint64_t offset, size_t *got) {
    const char *call = "sagemem_read";
    sagemem_status status;
    do {
        *got = 0;
        if (r->input->waits && !smi_os_wait_readable(r->handle, &r->ahead.bell)) return SAGEMEM_OK;
        status = r->input->fetch_fn(r, to, r->desc.buffer_bytes, offset, got, call);
    } while (r->input->waits && status == SAGEMEM_E_IO && smi_os_is_again(smi_mine.error.os_error));
    return status;
}

static void smi_reader_main(void *ctx) {
    sagemem_reader *r = (sagemem_reader *)ctx;
    smi_reader_ahead *a = &r->ahead;
    smi_lock_take(&a->lock);
    while (!a->quits) {
        if (a->halted || a->filled - a->released == a->count) {
            smi_condition_wait(&a->changed, &a->lock);
            continue;
        }
        smi_reader_buffer *b = &a->ring[a->filled % a->count];
        uint64_t offset = a->next_offset, seeks = a->seeks;
        smi_lock_give(&a->lock);
        size_t got;
        sagemem_status status = smi_reader_fetch_ahead(r, b->data, offset, &got);
        smi_lock_take(&a->lock);
        if (seeks != a->seeks) continue;
        b->size = got;
        a->next_offset += got;
        if (got > 0) {
            a->filled++;
        } else {
            a->halted = true;
            a->told = false;
            a->status = status;
            if (status != SAGEMEM_OK) a->error = smi_mine.error;
        }
        smi_condition_wake_all(&a->changed);
    }
    smi_lock_give(&a->lock);
}

/* The buffers in front of that number are the thread's again. Under the lock. */
static void smi_reader_release(smi_reader_ahead *a, uint64_t up_to) {
    if (a->released == up_to) return;
    a->released = up_to;
    smi_condition_wake_all(&a->changed);
}

/* The next buffer as the rest; OK without a rest: the end. What the thread met earlier is old news: at the end it looks again,
 * and after a failure that was told, too. */
static sagemem_status smi_reader_take(sagemem_reader *r, const char *call) {
    smi_reader_ahead *a = &r->ahead;
    sagemem_status status = SAGEMEM_OK;
    r->rest = r->rest_end = "";
    smi_lock_take(&a->lock);
    smi_reader_release(a, a->taken);
    for (bool asked = false;;) {
        if (a->taken < a->filled) {
            const smi_reader_buffer *b = &a->ring[a->taken++ % a->count];
            r->rest = b->data;
            r->rest_end = b->data + b->size;
            break;
        }
        if (a->halted && a->status != SAGEMEM_OK && !a->told) {
            a->told = true;
            status = a->status;
            smi_mine.error = a->error;
            smi_mine.error.call = call;
            break;
        }
        if (a->halted && asked) break;
        if (a->halted) {
            asked = true;
            a->halted = false;
            smi_condition_wake_all(&a->changed);
        }
        smi_condition_wait(&a->changed, &a->lock);
    }
    smi_lock_give(&a->lock);
    return status;
}

/* Drops what was read ahead; the thread goes on at that offset. */
static void smi_reader_seek_ahead(sagemem_reader *r, uint64_t offset) {
    smi_reader_ahead *a = &r->ahead;
    smi_lock_take(&a->lock);
    a->seeks++;
    a->next_offset = offset;
    a->halted = false;
    a->taken = a->filled;
    smi_reader_release(a, a->filled);
    smi_condition_wake_all(&a->changed);
    smi_lock_give(&a->lock);
}

/* In the child of a fork there is no thread. A file is read without it from where the caller is; elsewhere, bytes that are the
 * parent's would be missing. */
static sagemem_status smi_reader_parted(sagemem_reader *r, const char *call) {
    if (SMI_LIKELY(!r->ahead.runs || r->forks == smi_os_forks)) return SAGEMEM_OK;
    if (!r->input->is_file)
        return smi_fail(
            SAGEMEM_E_BUSY, 0, call,
            "the reader read ahead when the process forked: what comes next is the parent's; open a reader in the child, "
            "or read without read_ahead");
    r->ahead.runs = false;
    return SAGEMEM_OK;
}

/* -- The window -- */

/* size bytes more of a map, or what there is; the system is asked for those after. */
static void smi_reader_widen(sagemem_reader *r, uint64_t size) {
    uint64_t left = (uint64_t)(r->rest_end - r->end);
    if (size < r->desc.buffer_bytes) size = r->desc.buffer_bytes;
    if (size > left) size = left;
    r->end += size;
    r->offset += size;
    r->rest = r->end;
    uint64_t from = r->asked > r->offset ? r->asked : r->offset;
    r->asked = r->offset + (uint64_t)r->desc.buffer_bytes * (uint64_t)r->desc.buffers;
    if (r->rest == r->rest_end || r->asked <= from) return;
    sagemem_error before = smi_mine.error;
    (void)sagemem_map_prefetch(r->map, from, r->asked - from); /* a wish */
    smi_mine.error = before;
}

/* The own buffer has room for size bytes, and holds the window at its front. */
static sagemem_status smi_reader_room(sagemem_reader *r, size_t size, const char *call) {
    size_t held = (size_t)(r->end - r->at);
    bool own = r->buffer != NULL && (uintptr_t)r->at - (uintptr_t)r->buffer < r->capacity;
    if (held > 0 && own) memmove(r->buffer, r->at, held);
    if (own) {
        r->at = r->buffer;
        r->end = r->buffer + held;
    }
    if (size > r->capacity) {
        size_t bytes;
        if (__builtin_add_overflow(size, (size_t)SMI_READER_STEP - 1, &bytes)) bytes = size;
        else bytes -= bytes % SMI_READER_STEP;
        char *grown = (char *)(r->buffer == NULL ? smi_object_alloc(&r->object, 64, bytes, r->desc.tag, false, call)
                                                 : smi_realloc(r->buffer, bytes, SAGEMEM_TAG_SAME, smi_nowhere, call));
        if (grown == NULL) return smi_mine.error.status;
        r->buffer = grown;
        r->capacity = bytes;
        smi_reader_counted(r);
    }
    SMI_ASSUME(r->buffer != NULL);
    if (held > 0 && !own) memcpy(r->buffer, r->at, held);
    r->at = r->buffer;
    r->end = r->buffer + held;
    return SAGEMEM_OK;
}

/* Puts bytes that come after the window at `to`: at most `least` of those that lie ready, so that the others can be used where
 * they are; else `most` from the input. *got 0: the end. */
static sagemem_status smi_reader_bring(sagemem_reader *r, char *to, size_t least, size_t most, size_t *got, const char *call) {
    sagemem_status status = SAGEMEM_OK;
    *got = 0;
    if (r->rest == r->rest_end && r->ahead.runs) status = smi_reader_take(r, call);
    if (r->rest < r->rest_end) {
        *got = (size_t)(r->rest_end - r->rest) < least ? (size_t)(r->rest_end - r->rest) : least;
        memcpy(to, r->rest, *got);
        r->rest += *got;
    } else if (!r->ahead.runs) {
        status = smi_reader_fetch(r, to, most, r->offset, got, call);
    }
    r->offset += *got;
    if (status == SAGEMEM_OK) r->end_found = *got == 0 ? r->offset : UINT64_MAX;
    return status;
}

/* The window is empty: it gets bytes, of a map at least `size` if it has them. OK with an empty window: the end. */
static sagemem_status smi_reader_next(sagemem_reader *r, uint64_t size, const char *call) {
    sagemem_status status = SAGEMEM_OK;
    if (r->map != NULL) {
        smi_reader_widen(r, size);
        return status;
    }
    r->at = r->end = r->buffer != NULL ? r->buffer : "";
    if (r->rest == r->rest_end && r->ahead.runs) status = smi_reader_take(r, call);
    if (r->rest < r->rest_end) {
        r->at = r->rest;
        r->end = r->rest = r->rest_end;
        r->offset += (uint64_t)(r->end - r->at);
        r->end_found = UINT64_MAX;
        return status;
    }
    if (r->ahead.runs) {
        if (status == SAGEMEM_OK) r->end_found = r->offset;
        return status;
    }
    size_t got;
    if (r->capacity == 0) status = smi_reader_room(r, r->desc.buffer_bytes, call); /* it read ahead before a fork */
    if (status != SAGEMEM_OK) return status;
    status = smi_reader_bring(r, r->buffer, r->capacity, r->capacity, &got, call);
    r->end += got;
    return status;
}

/* Far more is wanted than a file has: the buffer need not grow to find out. Files whose size the system does not know say 0. */
static bool smi_reader_too_short(const sagemem_reader *r, size_t size) {
    smi_os_info info;
    uint64_t position = r->offset - (uint64_t)(r->end - r->at);
    return size > r->capacity && r->input->is_file && smi_os_info_of(r->handle, &info) && info.size > 0 &&
           (info.size < position || info.size - position < size);
}

/* The window has size bytes or more; E_EMPTY: the input has not, and nothing is lost. */
static sagemem_status smi_reader_fill(sagemem_reader *r, size_t size, const char *call) {
    sagemem_status status = SAGEMEM_OK;
    if (r->map != NULL) smi_reader_widen(r, size - (size_t)(r->end - r->at));
    else if (r->at == r->end && (r->ahead.runs || r->rest < r->rest_end)) status = smi_reader_next(r, size, call);
    if (status != SAGEMEM_OK || size <= (size_t)(r->end - r->at)) return status;
    if (r->map == NULL && !smi_reader_too_short(r, size)) {
        status = smi_reader_room(r, size, call);
        while (status == SAGEMEM_OK && (size_t)(r->end - r->at) < size) {
            size_t held = (size_t)(r->end - r->at), got;
            status = smi_reader_bring(r, r->buffer + held, size - held, r->capacity - held, &got, call);
            r->end += got;
            if (got == 0) break;
        }
        if (status != SAGEMEM_OK || size <= (size_t)(r->end - r->at)) return status;
    }
    return smi_fail(SAGEMEM_E_EMPTY, 0, call,
                    "%s: %zu bytes are wanted at byte %llu, and %zu are left; read those, or ask for fewer", smi_reader_name(r),
                    size, (unsigned long long)(r->offset - (uint64_t)(r->end - r->at)), (size_t)(r->end - r->at));
}

/* Reads behind the short path. With an empty buffer, what would fill it goes straight to the caller. */
static sagemem_status smi_reader_read(sagemem_reader *r, char *to, size_t size, size_t *got, const char *call) {
    sagemem_status status = SAGEMEM_OK;
    if (size == 0) return SAGEMEM_OK;
    if (to == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "to is NULL: pass memory for %zu bytes", size);
    for (;;) {
        *got += smi_reader_copy(r, to + *got, size - *got);
        size_t want = size - *got, n = 0;
        if (want == 0) return SAGEMEM_OK;
        status = smi_reader_parted(r, call);
        if (status != SAGEMEM_OK) return status;
        if (r->map == NULL && !r->ahead.runs && r->rest == r->rest_end && want >= r->capacity && r->capacity > 0) {
            status = smi_reader_bring(r, to + *got, want, want, &n, call);
            *got += n;
            if (n == 0) return status;
        } else {
            smi_reader_watch(r, true);
            status = smi_reader_next(r, want, call);
            smi_reader_watch(r, false);
            if (status != SAGEMEM_OK || r->at == r->end) return status;
        }
    }
}

/* How many of the next size bytes of a file were passed over without reading. The window is empty. What the system does not
 * know of is left to be read, and so is what the thread is about to read. */
static uint64_t smi_reader_jump(sagemem_reader *r, uint64_t size) {
    smi_os_info info;
    if (!r->input->is_file || !smi_os_info_of(r->handle, &info) || info.size <= r->offset) return 0;
    if (size > info.size - r->offset) size = info.size - r->offset;
    if (r->ahead.runs && size <= (uint64_t)r->ahead.count * r->desc.buffer_bytes) return 0;
    r->at = r->end = r->rest = r->rest_end = "";
    r->offset += size;
    if (r->ahead.runs) smi_reader_seek_ahead(r, r->offset);
    return size;
}

static sagemem_status smi_reader_skip(sagemem_reader *r, uint64_t size, const char *call) {
    for (bool jumped = false;; jumped = true) {
        uint64_t window = (uint64_t)(r->end - r->at), n = window < size ? window : size;
        r->at += (size_t)n;
        size -= n;
        if (size > 0 && !jumped) size -= smi_reader_jump(r, size);
        if (size == 0) return SAGEMEM_OK;
        sagemem_status status = smi_reader_next(r, size, call);
        if (status != SAGEMEM_OK) return status;
        if (r->at == r->end)
            return smi_fail(SAGEMEM_E_EMPTY, 0, call, "%s ends at byte %llu, %llu before what was to be skipped",
                            smi_reader_name(r), (unsigned long long)r->offset, (unsigned long long)size);
    }
}

/* -- Opening and ending -- */

static void smi_reader_ahead_end(sagemem_reader *r) {
    smi_reader_ahead *a = &r->ahead;
    bool here = a->started && r->forks == smi_os_forks;
    if (here) {
        smi_lock_take(&a->lock);
        a->quits = true;
        a->seeks++; /* what it reads now is nobody's */
        smi_condition_wake_all(&a->changed);
        smi_lock_give(&a->lock);
        if (a->rings) smi_os_bell_ring(&a->bell);
        smi_os_thread_join(&a->thread);
        smi_condition_deinit(&a->changed);
    }
    a->runs = a->started = false;
    if (a->rings) smi_os_bell_close(&a->bell);
    a->rings = false;
    for (uint32_t i = 0; i < a->made; i++) {
        smi_watch_open(a->ring[i].data, r->desc.buffer_bytes);
        smi_free(a->ring[i].data, smi_nowhere, "sagemem_reader_close");
    }
    if (a->ring != NULL) smi_meta_free(a->ring, a->count * sizeof *a->ring);
    a->ring = NULL;
    a->made = 0;
}

/* Gives back all but the structure; a second time, nothing. Returns what the source said. */
static sagemem_status smi_reader_finish(sagemem_reader *r) {
    const char *call = "sagemem_reader_close";
    smi_object_file(&r->object, NULL);
    smi_reader_ahead_end(r);
    if (r->buffer != NULL) {
        smi_watch_open(r->buffer, r->capacity);
        smi_free(r->buffer, smi_nowhere, call);
    }
    if (r->map != NULL) (void)sagemem_map_close(r->map); /* nothing was written that could be lost */
    if (r->handle != smi_os_no_handle()) (void)smi_os_close(r->handle);
    if (r->path != NULL) smi_meta_free(r->path, r->path_bytes);
    r->buffer = r->path = NULL;
    r->map = NULL;
    r->handle = smi_os_no_handle();
    bool closes = r->opened && r->source.close_fn != NULL;
    r->opened = false;
    return closes ? r->source.close_fn(r->source.ctx) : SAGEMEM_OK;
}

static void smi_reader_end(smi_object *o) {
    sagemem_status status = smi_reader_finish((sagemem_reader *)o);
    if (status != SAGEMEM_OK)
        smi_log(SAGEMEM_LOG_WARNING, "a reader ended with its scope or heap, and its source's close_fn returned %s",
                sagemem_status_name(status));
}

static size_t smi_reader_check(const smi_object *o, const char *call) {
    const sagemem_reader *r = (const sagemem_reader *)o;
    const smi_reader_ahead *a = &r->ahead;
    const char *of = smi_reader_name(r);
    smi_check_ctx c = {call, 0};
    char text[SMI_WHY + 40];
    if (r->at > r->end || r->rest > r->rest_end || (uint64_t)(r->end - r->at) > r->offset) {
        smi_text(text, sizeof text, "the reader of %.120s is damaged: its window ends before it begins", of);
        smi_damage(&c, text);
    }
    if (a->taken < a->released || a->taken - a->released > a->count) { /* the caller's side, which needs no lock */
        smi_text(text, sizeof text, "the reader of %.120s is damaged: it has taken %llu buffers and given back %llu", of,
                 (unsigned long long)a->taken, (unsigned long long)a->released);
        smi_damage(&c, text);
    }
    return c.damaged;
}

static const smi_object_kind smi_reader_kind = {"reader", sizeof(struct sagemem_reader), smi_reader_end, smi_reader_check};

static sagemem_status smi_reader_refuse(const sagemem_reader_desc *desc, const char *call) {
    if (desc == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "desc is NULL: it says what to read");
    int given = (desc->path != NULL) + (desc->fd_plus_one != 0) + (desc->source != NULL);
    if (given != 1) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%d of path, fd_plus_one and source are given; give one", given);
    if (desc->fd_plus_one < 0)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "fd_plus_one is %d; pass a descriptor + 1", desc->fd_plus_one);
    if (desc->source != NULL && desc->source->read_fn == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "the source's read_fn is NULL: pass the function that reads");
    if (desc->buffers < 0 || desc->buffers > SMI_READER_BUFFERS_MAX || (desc->buffers == 1 && desc->read_ahead))
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%d buffers; reading ahead takes 2 to %d, 0 means 3", desc->buffers,
                        SMI_READER_BUFFERS_MAX);
    if (!smi_tag_known(desc->tag, call)) return SAGEMEM_E_ARGUMENT;
    return SAGEMEM_OK;
}

/* What is to be read. The handle is open, unless it is a source. */
typedef struct smi_reader_found {
    const smi_reader_input *input;
    smi_os_handle handle;
    smi_os_info info;
    sagemem_map *map;
} smi_reader_found;

static sagemem_status smi_reader_find(const sagemem_reader_desc *desc, smi_reader_found *f, const char *call) {
    memset(f, 0, sizeof *f);
    f->handle = smi_os_no_handle();
    if (desc->source != NULL) {
        f->input = desc->source->seekable ? &smi_reader_from_seekable : &smi_reader_from_source;
        return SAGEMEM_OK;
    }
    if (!(desc->path != NULL ? smi_os_open(&f->handle, desc->path, SMI_OS_READ, 0)
                             : smi_os_duplicate(&f->handle, desc->fd_plus_one - 1))) {
        f->handle = smi_os_no_handle();
        return smi_fail_file(call, desc->path, "name a file that can be read", "opening failed");
    }
    sagemem_status status = SAGEMEM_OK;
    if (!smi_os_info_of(f->handle, &f->info))
        status = smi_fail_file(call, desc->path, "the call can be repeated", "looking at it failed");
    else if (f->info.directory)
        status = smi_fail(SAGEMEM_E_IO, SMI_OS_IS_DIRECTORY, call, "%.90s is a directory; name a file",
                          desc->path != NULL ? desc->path : "the descriptor");
    f->input = f->info.regular ? &smi_reader_from_file : &smi_reader_from_stream;
    if (status != SAGEMEM_OK) (void)smi_os_close(f->handle);
    return status;
}

/* Files that the system knows the size of are mapped, if that works; the map is older than the reader, which closes it. */
static void smi_reader_map(const sagemem_reader_desc *desc, smi_reader_found *f, smi_domain *h) {
    if (!f->info.regular || desc->no_mapping || f->info.size == 0 || f->info.size < desc->map_threshold) return;
    sagemem_map_desc m;
    memset(&m, 0, sizeof m);
    m.path = desc->path;
    m.fd_plus_one = desc->fd_plus_one;
    m.access = SAGEMEM_ACCESS_SEQUENTIAL;
    m.no_fallback = true;
    m.heap = h;
    m.tag = desc->tag;
    sagemem_error before = smi_mine.error;
    f->map = sagemem_map_open(&m);
    if (f->map == NULL) smi_mine.error = before;
}

static bool smi_reader_ahead_begin(sagemem_reader *r, const char *call) {
    smi_reader_ahead *a = &r->ahead;
    a->count = (uint32_t)r->desc.buffers;
    a->ring = (smi_reader_buffer *)smi_object_meta(&r->object, a->count * sizeof *a->ring, call);
    if (a->ring == NULL) return false;
    for (; a->made < a->count; a->made++) {
        a->ring[a->made].data = (char *)smi_object_alloc(&r->object, 64, r->desc.buffer_bytes, r->desc.tag, false, call);
        if (a->ring[a->made].data == NULL) return false;
    }
    smi_reader_counted(r);
    smi_lock_init(&a->lock);
    smi_lock_init(&a->calls);
    if (r->input->waits && !(a->rings = smi_os_bell_make(&a->bell))) {
        smi_fail_file(call, r->path, "close files, or read without read_ahead", "no event to wait with");
        return false;
    }
    smi_condition_init(&a->changed);
    a->runs = a->started = true;
    if (smi_os_thread_start(&a->thread, smi_reader_main, r)) return true;
    smi_fail(SAGEMEM_E_NOMEM, smi_os_error(), call, "no thread could be started (%s); end others, or read without read_ahead",
             smi_os_error_text(smi_os_error()));
    a->runs = a->started = false;
    smi_condition_deinit(&a->changed);
    return false;
}

/* What it takes to read; false: the error is set, and ending the reader undoes the rest. */
static bool smi_reader_prepare(sagemem_reader *r, const char *call) {
    if (r->desc.path != NULL) {
        r->path = smi_copy_path(&r->object, r->desc.path, &r->path_bytes, call);
        if (r->path == NULL) return false;
    }
    if (r->map != NULL) {
        r->input = &smi_reader_from_map;
        r->file_size = sagemem_map_size(r->map);
        if (r->file_size > 0) r->at = r->end = r->rest = (const char *)sagemem_map_data(r->map);
        r->rest_end = r->end + (size_t)r->file_size;
        smi_reader_widen(r, r->desc.read_ahead ? 0 : r->file_size);
        return true;
    }
    if (r->desc.read_ahead) return smi_reader_ahead_begin(r, call);
    size_t wanted = r->desc.buffer_bytes;
    r->buffer = (char *)smi_object_alloc(&r->object, 64, wanted, r->desc.tag, false, call);
    if (r->buffer == NULL) return false;
    r->capacity = wanted;
    r->at = r->end = r->buffer;
    smi_reader_counted(r);
    return true;
}

/* Of a file, no larger than it takes to find its end with one read. */
static size_t smi_reader_default_bytes(const smi_reader_found *f) {
    if (!f->info.regular || f->info.size >= SMI_READER_BYTES - SMI_READER_STEP) return SMI_READER_BYTES;
    return ((size_t)f->info.size / SMI_READER_STEP + 1) * SMI_READER_STEP;
}

/* Takes over what was found, or leaves it. */
static sagemem_reader *smi_reader_make(const sagemem_reader_desc *desc, smi_reader_found *f, smi_domain *h, const char *call) {
    sagemem_reader *r = (sagemem_reader *)smi_object_create(h, &smi_reader_kind, NULL, call);
    if (r == NULL) return NULL;
    r->desc = *desc;
    r->desc.heap = h;
    if (desc->buffer_bytes == 0) r->desc.buffer_bytes = smi_reader_default_bytes(f);
    if (desc->buffers == 0) r->desc.buffers = desc->read_ahead ? 3 : 1;
    if (desc->source != NULL) r->source = *desc->source;
    r->at = r->end = r->rest = r->rest_end = "";
    r->input = f->input;
    r->handle = f->handle;
    r->map = f->map;
    f->handle = smi_os_no_handle();
    f->map = NULL;
    r->file_size = f->info.size;
    r->end_found = UINT64_MAX;
    r->forks = smi_os_forks;
    r->opened = smi_reader_prepare(r, call);
    smi_reader_watch(r, false);
    if (r->map != NULL && r->handle != smi_os_no_handle()) { /* the map has its own */
        (void)smi_os_close(r->handle);
        r->handle = smi_os_no_handle();
    }
    bool opened = r->opened;
    if (opened) smi_object_file(&r->object, smi_reader_name_whole(r));
    else smi_object_end(&r->object);
    smi_leave(h);
    return opened ? r : NULL;
}

SAGEMEM_API sagemem_reader *sagemem_reader_open(const sagemem_reader_desc *desc) {
    const char *call = "sagemem_reader_open";
    smi_reader_found found;
    smi_start();
    if (smi_reader_refuse(desc, call) != SAGEMEM_OK) return NULL;
    if (smi_reader_find(desc, &found, call) != SAGEMEM_OK) return NULL; /* a FIFO is waited for here: no lock is held */
    smi_domain *h = smi_enter(desc->heap, call);
    sagemem_reader *r = NULL;
    if (h != NULL) {
        smi_reader_map(desc, &found, h);
        r = smi_reader_make(desc, &found, h, call);
        if (found.map != NULL) (void)sagemem_map_close(found.map);
        smi_leave(h);
    }
    if (found.handle != smi_os_no_handle()) (void)smi_os_close(found.handle);
    return r;
}

/* What every call begins with: the view of the call before ends. */
SMI_INLINE bool smi_reader_enter(const sagemem_reader *reader, const char *call) {
    if (!smi_object_enter_alone(reader, &smi_reader_kind, call)) return false;
    if (SMI_UNLIKELY(reader->shown != NULL)) smi_reader_hide((sagemem_reader *)(uintptr_t)reader);
    return true;
}

SAGEMEM_API sagemem_status sagemem_reader_get_desc(const sagemem_reader *reader, sagemem_reader_desc *out) {
    const char *call = "sagemem_reader_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_reader_desc");
    if (!smi_object_enter(reader, &smi_reader_kind, call)) return smi_mine.error.status;
    *out = reader->desc;
    out->path = reader->path;
    if (reader->desc.source != NULL) out->source = &reader->source;
    if (reader->capacity > out->buffer_bytes) out->buffer_bytes = reader->capacity;
    smi_object_leave(&reader->object);
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_read(sagemem_reader *reader, void *to, size_t size, size_t *got) {
    const char *call = "sagemem_read";
    if (got != NULL) *got = 0;
    if (!smi_reader_enter(reader, call)) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    size_t n = 0;
    if (SMI_LIKELY(size <= (size_t)(reader->end - reader->at) && to != NULL && !smi_watched)) {
        memcpy(to, reader->at, size);
        reader->at += size;
        n = size;
    } else {
        status = smi_reader_read(reader, (char *)to, size, &n, call);
    }
    if (got != NULL) *got = n;
    else if (status == SAGEMEM_OK && n < size)
        status = smi_fail(SAGEMEM_E_EMPTY, 0, call, "%s ends at byte %llu: %zu of %zu bytes were left; pass got to be told",
                          smi_reader_name(reader), (unsigned long long)reader->offset, n, size);
    smi_object_leave(&reader->object);
    return status;
}

SAGEMEM_API const void *sagemem_read_view(sagemem_reader *reader, size_t size) {
    const char *call = "sagemem_read_view";
    if (!smi_reader_enter(reader, call)) return NULL;
    const char *view = reader->at;
    if (SMI_UNLIKELY(size > (size_t)(reader->end - view))) {
        smi_reader_watch(reader, true);
        sagemem_status status = smi_reader_parted(reader, call);
        if (status == SAGEMEM_OK) status = smi_reader_fill(reader, size, call);
        smi_reader_watch(reader, false);
        view = status == SAGEMEM_OK ? reader->at : NULL;
    }
    if (SMI_LIKELY(view != NULL)) {
        reader->at += size;
        smi_reader_show(reader, view, size);
    }
    smi_object_leave(&reader->object);
    return view;
}

SAGEMEM_API sagemem_status sagemem_read_at(sagemem_reader *reader, uint64_t offset, void *to, size_t size) {
    const char *call = "sagemem_read_at";
    if (!smi_reader_enter(reader, call)) return smi_mine.error.status;
    sagemem_status status = smi_reader_parted(reader, call);
    if (status == SAGEMEM_OK && !reader->input->any_offset)
        status = smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                          "a pipe, or a source that is not seekable, is read in order: use sagemem_read");
    if (status == SAGEMEM_OK && to == NULL && size > 0)
        status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "to is NULL: pass memory for %zu bytes", size);
    for (size_t done = 0, got; status == SAGEMEM_OK && done < size; done += got) {
        got = 0;
        if (offset <= UINT64_MAX - size)
            status = smi_reader_fetch(reader, (char *)to + done, size - done, offset + done, &got, call);
        if (status == SAGEMEM_OK && got == 0)
            status =
                smi_fail(SAGEMEM_E_EMPTY, 0, call, "%s: %zu bytes are wanted at byte %llu, past the end; ask for what there is",
                         smi_reader_name(reader), size, (unsigned long long)offset);
    }
    smi_object_leave(&reader->object);
    return status;
}

SAGEMEM_API sagemem_status sagemem_reader_skip(sagemem_reader *reader, uint64_t size) {
    const char *call = "sagemem_reader_skip";
    if (!smi_reader_enter(reader, call)) return smi_mine.error.status;
    sagemem_status status = SAGEMEM_OK;
    if (size <= (uint64_t)(reader->end - reader->at)) {
        reader->at += (size_t)size;
    } else {
        smi_reader_watch(reader, true);
        status = smi_reader_parted(reader, call);
        if (status == SAGEMEM_OK) status = smi_reader_skip(reader, size, call);
        smi_reader_watch(reader, false);
    }
    smi_object_leave(&reader->object);
    return status;
}

SAGEMEM_API uint64_t sagemem_reader_position(const sagemem_reader *reader) {
    if (!smi_object_enter(reader, &smi_reader_kind, "sagemem_reader_position")) return 0;
    uint64_t position = reader->offset - (uint64_t)(reader->end - reader->at);
    smi_object_leave(&reader->object);
    return position;
}

SAGEMEM_API uint64_t sagemem_reader_size(const sagemem_reader *reader) {
    if (!smi_object_enter(reader, &smi_reader_kind, "sagemem_reader_size")) return 0;
    smi_os_info info;
    uint64_t size = reader->map != NULL ? reader->file_size : reader->end_found;
    if (reader->input->is_file) size = smi_os_info_of(reader->handle, &info) ? info.size : reader->file_size;
    smi_object_leave(&reader->object);
    return size;
}

SAGEMEM_API bool sagemem_reader_is_mapped(const sagemem_reader *reader) {
    if (!smi_object_enter(reader, &smi_reader_kind, "sagemem_reader_is_mapped")) return false;
    bool mapped = reader->map != NULL;
    smi_object_leave(&reader->object);
    return mapped;
}

SAGEMEM_API sagemem_status sagemem_reader_close(sagemem_reader *reader) {
    if (reader == NULL) return SAGEMEM_OK;
    if (!smi_reader_enter(reader, "sagemem_reader_close")) return smi_mine.error.status;
    smi_domain *h = reader->object.domain->base;
    sagemem_status status = smi_reader_finish(reader);
    smi_object_end(&reader->object);
    smi_leave(h);
    return status;
}

#endif /* SAGEMEM_WITH_IO */

/* ==========================================================================
 * >>stream  Chunks are looked for in the reader's window, and processed there or handed over.
 * ========================================================================== */
#if SAGEMEM_WITH_IO

/* The window of the reader begins with a record. It is widened until it has a chunk:
 *
 *     reader   at ........ done ........ seen ...... end | what the reader gives next
 *                 complete      looked at
 *
 * What of it may be looked at is `reach`: chunk_bytes, and twice as much again and again while not even one record is complete. So
 * a chunk is the same whatever pieces the bytes come in, and a long record is looked at as often as a logarithm says.
 *
 * One thread processes in the window, and consumes the chunk when process_fn has returned OK. With more, chunks go round:
 *
 *     unused -> filled by the caller, who alone uses the reader -> first ... last -> processed by any thread -> unused
 *
 * The caller processes, too, when no chunk is unused: so much for back-pressure. Chunks are begun in the order of the input; when
 * one fails, all those before it have been begun, and are waited for: the failure with the lowest offset is the same every time.
 * While the caller waits for input, a failure wakes it. */

enum {
    SMI_STREAM_BYTES = 1 << 20,
    SMI_STREAM_RECORD_MAX = 1 << 26,
    SMI_STREAM_BUFFERS = 3, /* one is read into, one lies ready, one is for the difference */
    SMI_STREAM_MAX = 1024   /* threads, and buffers */
};

typedef struct smi_stream_chunk {
    struct smi_stream_chunk *next;
    const char *at; /* in a map, or `buffer` */
    size_t size;
    uint64_t offset;
    char *buffer; /* NULL: none yet, or not needed */
    size_t room;
} smi_stream_chunk;

typedef struct smi_stream {
    smi_object object;
    sagemem_stream_desc desc; /* resolved */
    sagemem_reader *reader;
    bool entered;               /* the caller is in the heap */
    size_t done, seen, records; /* of the next chunk: see above; records in `done` */
    sagemem_status status;      /* of reading, once it has failed: told when what came before is processed */
    sagemem_error error;
    /* With threads. Under the lock: */
    smi_lock lock;
    smi_condition changed;
    smi_stream_chunk *unused, *first, *last;
    uint32_t under_way;     /* calls of process_fn */
    bool ended;             /* nothing is going to be put behind `last` */
    bool stops;             /* process_fn failed; read without the lock, too */
    uint64_t failed_offset; /* where, if it did */
    sagemem_error failure;
    /* The caller's: */
    smi_stream_chunk *chunks;
    smi_os_thread *workers;
    uint32_t chunk_count, worker_room, worker_count;
    smi_os_bell bell; /* ends the caller's wait for a pipe */
    bool shares, rings;
} smi_stream;

static const char smi_stream_call[] = "sagemem_stream_run";

/* -- Streams: the caller and the reader -- */

static uint64_t smi_stream_position(const sagemem_reader *r) { return r->offset - (uint64_t)(r->end - r->at); }

/* Outside of the heap, while the program's functions run or input is waited for, the reader is busy. */
static void smi_stream_leave(smi_stream *s) {
    s->reader->object.busy = true;
    s->entered = false;
    smi_object_leave(&s->object);
}

static void smi_stream_end(smi_object *o);
/* Who may have ended the stream is process_fn, with the scope or heap: its structure tells so. */
static size_t smi_stream_check(const smi_object *o, const char *call) {
    (void)o, (void)call;
    return 0;
}
static const smi_object_kind smi_stream_kind = {"stream", sizeof(smi_stream), smi_stream_end, smi_stream_check};

/* OK, and back in the heap; or the fault handler was called. */
static sagemem_status smi_stream_enter(smi_stream *s) {
    if (!smi_object_enter(&s->object, &smi_stream_kind, smi_stream_call)) return smi_mine.error.status;
    s->entered = true;
    return SAGEMEM_OK;
}

/* With threads: until there is something to read, or the stream stops. Others may use the heap meanwhile. */
static sagemem_status smi_stream_await(smi_stream *s) {
    smi_reader_ahead *a = &s->reader->ahead;
    if (!s->shares) return SAGEMEM_OK;
    smi_stream_leave(s);
    if (a->runs) {
        smi_lock_take(&a->lock);
        while (a->taken == a->filled && !a->halted && !SMI_LOAD(&s->stops)) smi_condition_wait(&a->changed, &a->lock);
        smi_lock_give(&a->lock);
    } else if (s->rings) {
        (void)smi_os_wait_readable(s->reader->handle, &s->bell);
    }
    sagemem_status status = smi_stream_enter(s);
    return status == SAGEMEM_OK && SMI_LOAD(&s->stops) ? SAGEMEM_E_CLOSED : status; /* the reason is `failure` */
}

/* One piece more behind the window, which is not empty. */
static sagemem_status smi_stream_append(sagemem_reader *r, size_t reach, size_t *got) {
    size_t held = (size_t)(r->end - r->at);
    bool own = r->buffer != NULL && (uintptr_t)r->at - (uintptr_t)r->buffer < r->capacity, full = held >= r->capacity;
    sagemem_status status = SAGEMEM_OK;
    *got = 0;
    if (!own || full || r->at != r->buffer) status = smi_reader_room(r, own && !full ? r->capacity : reach, smi_stream_call);
    if (status != SAGEMEM_OK) return status;
    size_t room = r->capacity - held;
    status = smi_reader_bring(r, r->buffer + held, room < reach - held ? room : reach - held, room, got, smi_stream_call);
    r->end += *got;
    return status;
}

/* The window has `least` bytes, at most `reach`; or all that is left. *ended: nothing comes behind it. */
static sagemem_status smi_stream_fill(smi_stream *s, size_t least, size_t reach, bool *ended) {
    sagemem_reader *r = s->reader;
    sagemem_status status = smi_reader_parted(r, smi_stream_call);
    if (r->map != NULL) {
        if ((size_t)(r->end - r->at) < least) smi_reader_widen(r, least - (size_t)(r->end - r->at));
        *ended = r->rest == r->rest_end;
    }
    while (status == SAGEMEM_OK && !*ended && (size_t)(r->end - r->at) < least) {
        bool first = r->at == r->end;
        size_t got = 0;
        if (r->rest == r->rest_end) status = smi_stream_await(s);
        if (status != SAGEMEM_OK) break;
        status = first ? smi_reader_next(r, least, smi_stream_call) : smi_stream_append(r, reach, &got);
        if (first) got = (size_t)(r->end - r->at);
        *ended = status == SAGEMEM_OK && got == 0;
    }
    return status;
}

/* -- Streams: where chunks end -- */

/* Asks the program, behind what is complete, for up to `most` records. */
static sagemem_status smi_stream_ask(smi_stream *s, const char *at, size_t size, size_t most) {
    sagemem_status status = SAGEMEM_OK;
    sagemem_error before = smi_mine.error; /* a question has no failure */
    for (; most > 0 && s->done < size; most--) {
        size_t left = size - s->done;
        unsigned long long where = smi_stream_position(s->reader) + s->done;
        s->reader->object.busy = true;
        size_t n = s->desc.boundary_fn(s->desc.ctx, at + s->done, left);
        smi_mine.error = before;
        if (n > left)
            status = smi_fail(SAGEMEM_E_CORRUPT, 0, smi_stream_call,
                              "boundary_fn says that of %zu bytes %zu are complete records, at byte %llu; it must not say more",
                              left, n, where);
        if (n == 0 || n > left) break;
        s->done += n;
        s->records++;
    }
    return status;
}

/* The last delimiter, or from the front one after the other. */
static void smi_stream_find(smi_stream *s, const char *at, size_t size, size_t most) {
    int delimiter = s->desc.delimiter_plus_one - 1;
    if (most == SIZE_MAX) {
        size_t end = size;
        while (end > s->seen && (unsigned char)at[end - 1] != delimiter) end--;
        if (end > s->seen) s->done = end;
        s->seen = size;
    }
    while (most > 0 && most != SIZE_MAX && s->seen < size) {
        const char *found = (const char *)memchr(at + s->seen, delimiter, size - s->seen);
        s->seen = found != NULL ? (size_t)(found - at) + 1 : size;
        if (found == NULL) break;
        s->done = s->seen;
        s->records++;
        most--;
    }
}

/* Looks for complete records in the first bytes of the window. Past chunk_bytes only one is of interest. */
static sagemem_status smi_stream_look(smi_stream *s, size_t size) {
    const sagemem_stream_desc *d = &s->desc;
    const char *at = s->reader->at;
    size_t most = d->chunk_records > 0 ? d->chunk_records - s->records : SIZE_MAX;
    if (size > d->max_record_bytes) size = d->max_record_bytes;
    if (size > d->chunk_bytes) most = 1;
    if (d->boundary_fn != NULL) return smi_stream_ask(s, at, size, most);
    if (d->delimiter_plus_one != 0) {
        smi_stream_find(s, at, size, most);
    } else {
        size_t n = (size - s->done) / d->record_bytes;
        if (n > most) n = most;
        s->done += n * d->record_bytes;
        s->records += n;
    }
    return SAGEMEM_OK;
}

static sagemem_status smi_stream_too_long(const smi_stream *s) {
    return smi_fail(
        SAGEMEM_E_TOO_BIG, 0, smi_stream_call,
        "%s: the record at byte %llu is longer than max_record_bytes, %zu; set more, or look whether its end is missing",
        smi_reader_name(s->reader), (unsigned long long)smi_stream_position(s->reader), s->desc.max_record_bytes);
}

/* Bytes of the next chunk, if it is decided with `size` bytes in reach; 0: it is not. At the end the rest is a record, and in
 * this chunk if there is room, and some to spare: so the answer is the same where the end is known and where it is yet to come. */
static size_t smi_stream_decide(const smi_stream *s, size_t size, bool ended, bool failed) {
    const sagemem_stream_desc *d = &s->desc;
    bool full = (d->chunk_records > 0 && s->records == d->chunk_records) || (s->done > 0 && size >= d->chunk_bytes);
    if (ended && !failed && !full && size <= d->max_record_bytes) return size;
    return full || ended || failed ? s->done : 0;
}

static void smi_stream_note(smi_stream *s, sagemem_status status) {
    if (s->status != SAGEMEM_OK || status == SAGEMEM_OK) return;
    s->status = status;
    s->error = smi_mine.error;
}

/* The size of the chunk at the front of the window. 0: the input has ended; or a failure, and nothing complete is in front of it. */
static sagemem_status smi_stream_next(smi_stream *s, size_t *chunk) {
    const sagemem_stream_desc *d = &s->desc;
    const sagemem_reader *r = s->reader;
    size_t reach = d->chunk_bytes, least = d->chunk_records > 0 ? 1 : reach;
    bool ended = false;
    s->done = s->seen = s->records = *chunk = 0;
    smi_reader_watch(r, true);
    for (;;) {
        if (s->status == SAGEMEM_OK) smi_stream_note(s, smi_stream_fill(s, least, reach, &ended));
        if (!s->entered) return s->status;
        size_t window = (size_t)(r->end - r->at), size = window < reach ? window : reach;
        if (size > 0) smi_stream_note(s, smi_stream_look(s, size));
        *chunk = smi_stream_decide(s, size, ended && window == size, s->status != SAGEMEM_OK);
        if (*chunk == 0 && size > d->max_record_bytes) smi_stream_note(s, smi_stream_too_long(s));
        if (*chunk > 0 || window == 0 || s->status != SAGEMEM_OK) break;
        if (size == reach) reach = reach > d->max_record_bytes / 2 ? d->max_record_bytes + 1 : 2 * reach;
        least = d->chunk_records > 0 && window < reach ? window + 1 : reach;
    }
    smi_reader_watch(r, false);
    if (*chunk > 0 || s->status == SAGEMEM_OK) return SAGEMEM_OK;
    smi_mine.error = s->error;
    return s->status;
}

/* -- Streams: processing -- */

/* What the program's function left as the last error is its reason, if the statuses agree. */
static sagemem_status smi_stream_process(const smi_stream *s, const char *at, size_t size, uint64_t offset) {
    sagemem_error before = smi_mine.error;
    smi_mine.error.status = SAGEMEM_OK;
    sagemem_status status = s->desc.process_fn(s->desc.ctx, at, size, offset);
    if (status == SAGEMEM_OK) smi_mine.error = before;
    else if (smi_mine.error.status != status)
        smi_fail(status, 0, smi_stream_call, "process_fn returned %s for the %zu bytes at byte %llu: the stream was stopped",
                 sagemem_status_name(status), size, (unsigned long long)offset);
    return status;
}

/* By the caller alone, where the bytes lie. */
static sagemem_status smi_stream_alone(smi_stream *s) {
    sagemem_reader *r = s->reader;
    for (;;) {
        size_t size;
        sagemem_status status = smi_stream_next(s, &size);
        if (status != SAGEMEM_OK || size == 0) return status;
        const char *at = r->at;
        uint64_t offset = smi_stream_position(r);
        smi_reader_show(r, at, size);
        smi_stream_leave(s);
        status = smi_stream_process(s, at, size, offset);
        sagemem_error error = smi_mine.error;
        sagemem_status back = smi_stream_enter(s);
        if (back != SAGEMEM_OK) return back;
        smi_reader_hide(r);
        if (status != SAGEMEM_OK) {
            smi_mine.error = error;
            return status;
        }
        r->at += size;
    }
}

/* -- Streams: with threads. `under the lock` is the stream's. -- */

/* What waits is not begun any more. Under the lock. */
static void smi_stream_drop(smi_stream *s) {
    SMI_STORE(&s->stops, true);
    if (s->first == NULL) return;
    s->last->next = s->unused;
    s->unused = s->first;
    s->first = s->last = NULL;
}

/* The caller may be waiting for input. */
static void smi_stream_wake_caller(smi_stream *s) {
    smi_reader_ahead *a = &s->reader->ahead;
    if (s->rings) smi_os_bell_ring(&s->bell);
    if (!a->runs) return;
    smi_lock_take(&a->lock);
    smi_condition_wake_all(&a->changed);
    smi_lock_give(&a->lock);
}

/* Processes the next chunk. False: none may be begun now. Under the lock, which is given meanwhile. */
static bool smi_stream_work(smi_stream *s) {
    smi_stream_chunk *c = s->first;
    if (c == NULL || (s->under_way > 0 && !s->desc.unordered)) return false;
    s->first = c->next;
    if (s->first == NULL) s->last = NULL;
    s->under_way++;
    smi_lock_give(&s->lock);
    sagemem_status status = smi_stream_process(s, c->at, c->size, c->offset);
    smi_lock_take(&s->lock);
    s->under_way--;
    if (SMI_UNLIKELY(s->object.domain == &smi_process)) return false; /* process_fn ended the scope, and all of this with it */
    if (status != SAGEMEM_OK) {
        if (c->offset < s->failed_offset) {
            s->failed_offset = c->offset;
            s->failure = smi_mine.error;
            s->failure.status = status;
        }
        smi_stream_drop(s);
        smi_stream_wake_caller(s);
    }
    c->next = s->unused;
    s->unused = c;
    smi_condition_wake_all(&s->changed);
    return true;
}

static void smi_stream_worker(void *ctx) {
    smi_stream *s = (smi_stream *)ctx;
    smi_lock_take(&s->lock);
    while (s->first != NULL || !s->ended)
        if (!smi_stream_work(s)) smi_condition_wait(&s->changed, &s->lock);
    smi_lock_give(&s->lock);
}

/* By the caller: a chunk to be filled, for which room is made by working. NULL: the stream stops. */
static smi_stream_chunk *smi_stream_take(smi_stream *s) {
    smi_lock_take(&s->lock);
    while (s->unused == NULL && !s->stops)
        if (!smi_stream_work(s)) smi_condition_wait(&s->changed, &s->lock);
    smi_stream_chunk *c = s->stops ? NULL : s->unused;
    if (c != NULL) s->unused = c->next;
    smi_lock_give(&s->lock);
    return c;
}

/* To those who process; or, empty, back. */
static void smi_stream_give(smi_stream *s, smi_stream_chunk *c) {
    smi_lock_take(&s->lock);
    if (c->size == 0 || s->stops) {
        c->next = s->unused;
        s->unused = c;
    } else {
        c->next = NULL;
        if (s->last != NULL) s->last->next = c;
        else s->first = c;
        s->last = c;
        smi_condition_wake_all(&s->changed);
    }
    smi_lock_give(&s->lock);
}

/* A copy of the front of the window, which moves on. */
static sagemem_status smi_stream_copy(smi_stream *s, smi_stream_chunk *c) {
    sagemem_reader *r = s->reader;
    if (c->room < c->size) {
        if (c->buffer != NULL) smi_free(c->buffer, smi_nowhere, smi_stream_call);
        c->room = c->size > s->desc.chunk_bytes ? c->size : s->desc.chunk_bytes;
        c->buffer = (char *)smi_object_alloc(&s->object, 64, c->room, r->desc.tag, false, smi_stream_call);
        if (c->buffer == NULL) c->room = 0;
        if (c->buffer == NULL) return smi_mine.error.status;
    }
    c->at = c->buffer;
    (void)smi_reader_copy(r, c->buffer, c->size);
    return SAGEMEM_OK;
}

/* The next chunk; size 0: there is none. */
static sagemem_status smi_stream_put(smi_stream *s, smi_stream_chunk *c) {
    sagemem_reader *r = s->reader;
    c->size = 0;
    sagemem_status status = smi_stream_enter(s);
    if (status == SAGEMEM_OK) status = smi_stream_next(s, &c->size);
    if (status == SAGEMEM_OK && c->size > 0) {
        c->offset = smi_stream_position(r);
        c->at = r->at;
        if (r->map != NULL) r->at += c->size;
        else status = smi_stream_copy(s, c);
    }
    if (status != SAGEMEM_OK) c->size = 0;
    if (s->entered) smi_stream_leave(s);
    return status;
}

/* Everything is handed over: the caller works with the others until it is done. */
static void smi_stream_drain(smi_stream *s) {
    smi_lock_take(&s->lock);
    s->ended = true;
    smi_condition_wake_all(&s->changed);
    while (s->first != NULL || s->under_way > 0)
        if (!smi_stream_work(s)) smi_condition_wait(&s->changed, &s->lock);
    smi_lock_give(&s->lock);
}

static sagemem_status smi_stream_together(smi_stream *s) {
    sagemem_status status = SAGEMEM_OK;
    smi_stream_leave(s);
    for (smi_stream_chunk *c; (c = smi_stream_take(s)) != NULL;) {
        status = smi_stream_put(s, c);
        bool none = c->size == 0;
        smi_stream_give(s, c);
        if (none) break;
    }
    sagemem_error error = smi_mine.error;
    smi_stream_drain(s);
    sagemem_status back = smi_stream_enter(s);
    if (back != SAGEMEM_OK) return back;
    bool failed = s->failed_offset != UINT64_MAX;
    smi_mine.error = failed ? s->failure : error;
    return failed ? s->failure.status : status;
}

/* -- Streams: beginning and end -- */

/* What it takes to process with threads. One that cannot be started is not needed: the others do its work. */
static sagemem_status smi_stream_share(smi_stream *s) {
    const sagemem_stream_desc *d = &s->desc;
    const sagemem_reader *r = s->reader;
    uint32_t others = d->unordered ? (uint32_t)d->threads - 1 : 1; /* in order only one can work while the caller reads */
    smi_lock_init(&s->lock);
    smi_condition_init(&s->changed);
    s->shares = true;
    s->failed_offset = UINT64_MAX;
    s->chunk_count = (uint32_t)d->buffer_count + others + 1;
    s->worker_room = others;
    s->chunks = (smi_stream_chunk *)smi_object_meta(&s->object, s->chunk_count * sizeof *s->chunks, smi_stream_call);
    if (s->chunks == NULL) return smi_mine.error.status;
    s->workers = (smi_os_thread *)smi_object_meta(&s->object, others * sizeof *s->workers, smi_stream_call);
    if (s->workers == NULL) return smi_mine.error.status;
    if (r->input->waits && !r->ahead.runs && !(s->rings = smi_os_bell_make(&s->bell)))
        return smi_fail_file(smi_stream_call, r->path, "close files, or use one thread", "no event to wait with");
    for (uint32_t i = s->chunk_count; i-- > 0; s->unused = &s->chunks[i]) s->chunks[i].next = s->unused;
    while (s->worker_count < others && smi_os_thread_start(&s->workers[s->worker_count], smi_stream_worker, s)) s->worker_count++;
    return SAGEMEM_OK;
}

/* Also with its scope or heap, if process_fn ended that. */
static void smi_stream_end(smi_object *o) {
    smi_stream *s = (smi_stream *)o;
    s->entered = false;
    if (!s->shares) return;
    smi_lock_take(&s->lock);
    s->ended = true;
    smi_stream_drop(s);
    smi_condition_wake_all(&s->changed);
    smi_lock_give(&s->lock);
    for (uint32_t i = 0; i < s->worker_count; i++) smi_os_thread_join(&s->workers[i]);
    smi_condition_deinit(&s->changed);
    if (s->rings) smi_os_bell_close(&s->bell);
    for (uint32_t i = 0; s->chunks != NULL && i < s->chunk_count; i++)
        if (s->chunks[i].buffer != NULL) smi_free(s->chunks[i].buffer, smi_nowhere, smi_stream_call);
    if (s->workers != NULL) smi_meta_free(s->workers, s->worker_room * sizeof *s->workers);
    if (s->chunks != NULL) smi_meta_free(s->chunks, s->chunk_count * sizeof *s->chunks);
}

static sagemem_status smi_stream_refuse(const sagemem_stream_desc *d) {
    const char *call = smi_stream_call;
    if (d == NULL || d->reader == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "no desc, or no reader in it: what is to be read?");
    if (d->process_fn == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "process_fn is NULL: pass what is done with each chunk");
    int given = (d->delimiter_plus_one != 0) + (d->record_bytes != 0) + (d->boundary_fn != NULL);
    if (given > 1)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%d of delimiter_plus_one, record_bytes and boundary_fn are given; give one",
                        given);
    if (d->delimiter_plus_one < 0 || d->delimiter_plus_one > 256)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "delimiter_plus_one is %d; pass a byte, 0 to 255, and 1 more",
                        d->delimiter_plus_one);
    if (d->buffer_count < 0 || d->buffer_count > SMI_STREAM_MAX || d->threads < 0 || d->threads > SMI_STREAM_MAX)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%d buffers and %d threads; there may be 1 to %d, 0 means %d and 1",
                        d->buffer_count, d->threads, SMI_STREAM_MAX, SMI_STREAM_BUFFERS);
    if (d->max_record_bytes > (size_t)PTRDIFF_MAX - 1)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "max_record_bytes is %zu, more than there are addresses for; at most %zu",
                        d->max_record_bytes, (size_t)PTRDIFF_MAX - 1);
    size_t most = d->max_record_bytes != 0 ? d->max_record_bytes : (size_t)SMI_STREAM_RECORD_MAX;
    if (d->record_bytes > most)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "record_bytes is %zu, more than max_record_bytes, %zu", d->record_bytes, most);
    return SAGEMEM_OK;
}

/* With no kind of record given, records of one byte: but these are not counted one by one. */
static void smi_stream_resolve(sagemem_stream_desc *d) {
    if (d->max_record_bytes == 0) d->max_record_bytes = SMI_STREAM_RECORD_MAX;
    if (d->delimiter_plus_one == 0 && d->boundary_fn == NULL && d->record_bytes == 0) d->record_bytes = 1;
    if (d->chunk_bytes == 0) d->chunk_bytes = SMI_STREAM_BYTES;
    if (d->chunk_bytes < d->record_bytes) d->chunk_bytes = d->record_bytes;
    if (d->chunk_bytes > d->max_record_bytes) d->chunk_bytes = d->max_record_bytes;
    if (d->buffer_count == 0) d->buffer_count = SMI_STREAM_BUFFERS;
    if (d->threads == 0) d->threads = 1;
}

SAGEMEM_API sagemem_status sagemem_stream_run(const sagemem_stream_desc *desc) {
    if (smi_stream_refuse(desc) != SAGEMEM_OK) return SAGEMEM_E_ARGUMENT;
    sagemem_reader *r = desc->reader;
    if (!smi_reader_enter(r, smi_stream_call)) return smi_mine.error.status;
    smi_domain *h = r->object.domain->base;
    smi_stream *s = (smi_stream *)smi_object_create(h, &smi_stream_kind, NULL, smi_stream_call);
    smi_leave(h); /* the stream's entrance stays */
    if (s == NULL) return smi_mine.error.status;
    s->desc = *desc;
    s->reader = r;
    s->entered = true;
    smi_stream_resolve(&s->desc);
    sagemem_status status = s->desc.threads > 1 ? smi_stream_share(s) : SAGEMEM_OK;
    if (status == SAGEMEM_OK) status = s->shares ? smi_stream_together(s) : smi_stream_alone(s);
    if (s->entered) {
        r->object.busy = false;
        smi_object_end(&s->object);
        smi_leave(h);
    }
    return status;
}

SAGEMEM_API size_t sagemem_fasta_boundary(void *ctx, const void *data, size_t size) {
    const char *at = (const char *)data, *p = at;
    (void)ctx;
    while (size > 0 && (p = (const char *)memchr(p + 1, '>', (size_t)(at + size - p) - 1)) != NULL)
        if (p[-1] == '\n') return (size_t)(p - at);
    return 0;
}

#endif /* SAGEMEM_WITH_IO */

/* ==========================================================================
 * >>index  Starts of records, packed; the same in memory and in the file.
 * ========================================================================== */
#if SAGEMEM_WITH_IO

/* Records lie one behind the other, from `first` to `end`: where they start says all. Starts are kept in blocks of 64. In a
 * block, number i lies near a line through the first one, with the slope of the smallest record:
 *
 *     start(i) = base + i * step + rest(i)        0 = rest(0) <= rest(1) <= ... < 2^width
 *
 * so lines that are all of one length cost nothing but their block, and no record more than the bits that 64 of its kind differ
 * by. The rests lie one behind the other in 64-bit words, from a word of the block's own on (frame of reference coding, Goldstein,
 * Ramakrishnan and Shaft 1998, along a line).
 *
 * Saved:   header 128 | blocks | words       in the byte order of the machine, which the header names
 *
 * A file that fits its checksums may still be made by hand: all starts are walked through once, and found to be inside the map
 * and in order, before anybody asks for one. */

enum {
    SMI_INDEX_BLOCK = 64,
    SMI_INDEX_PIECE = 1 << 24, /* bytes looked through at a time: far more than a call costs */
    SMI_INDEX_REACH = 1 << 16, /* bytes that boundary_fn is shown at first */
    SMI_INDEX_RECORD_MAX = 1 << 26,
    SMI_INDEX_WIDTH_AT = 56 /* bit of `place` */
};

typedef struct smi_index_block {
    uint64_t base, step;
    uint64_t place; /* its first word, and in the highest byte the width of a rest */
} smi_index_block;

/* What an index is of: the part of a file, and how that was. */
typedef struct smi_index_stamp {
    uint64_t file_size, modified_ns;
    uint64_t map_offset, map_size;
} smi_index_stamp;

typedef struct smi_index_header {
    char magic[16];
    uint32_t version, byte_order;
    uint64_t bytes; /* of the whole */
    smi_index_stamp stamp;
    uint64_t count, first, end;
    uint64_t record_bytes, block_count, word_count;
    uint32_t kind, delimiter;
    uint32_t data_checksum; /* of blocks and words */
    uint32_t checksum;      /* of the header up to here */
} smi_index_header;

static const char smi_index_magic[16] = "sagemem index\0\0";
static const uint32_t SMI_INDEX_VERSION = 1, SMI_INDEX_ORDER = 0x01020304u;

struct sagemem_index {
    smi_object object;
    sagemem_index_desc desc; /* resolved */
    sagemem_record_kind kind;
    sagemem_map *map;
    uint64_t map_serial; /* else it is not the same, or not as it was */
    smi_index_stamp stamp;
    uint64_t count, first, end;
    smi_index_block *blocks;
    uint64_t *words;
    size_t block_count, block_room, word_count, word_room;
};

static void smi_index_end(smi_object *o) {
    sagemem_index *x = (sagemem_index *)o;
    if (x->blocks != NULL) smi_free(x->blocks, smi_nowhere, "sagemem_index_destroy");
    if (x->words != NULL) smi_free(x->words, smi_nowhere, "sagemem_index_destroy");
}

static size_t smi_index_check(const smi_object *o, const char *call) {
    const sagemem_index *x = (const sagemem_index *)o;
    smi_check_ctx c = {call, 0};
    bool packed = x->kind != SAGEMEM_RECORDS_FIXED;
    if (x->first > x->end || x->end > x->stamp.map_size || x->block_count > x->block_room || x->word_count > x->word_room ||
        (packed && x->block_count != x->count / SMI_INDEX_BLOCK + (x->count % SMI_INDEX_BLOCK != 0)))
        smi_damage(&c, "an index is damaged: something wrote over the library's own memory");
    return c.damaged;
}

static const smi_object_kind smi_index_kind = {"index", sizeof(sagemem_index), smi_index_end, smi_index_check};

/* -- Indexes: packing -- */

static unsigned smi_index_width(const smi_index_block *b) { return (unsigned)(b->place >> SMI_INDEX_WIDTH_AT); }
static uint64_t smi_index_place(const smi_index_block *b) { return b->place & (((uint64_t)1 << SMI_INDEX_WIDTH_AT) - 1); }

/* Blocks without words may be all there are: then there are no words at all. */
static uint64_t smi_index_rest(const sagemem_index *x, const smi_index_block *b, unsigned i) {
    unsigned width = smi_index_width(b), bit = i * width, shift = bit % 64;
    if (width == 0) return 0;
    const uint64_t *words = x->words + (size_t)smi_index_place(b) + bit / 64;
    uint64_t rest = words[0] >> shift;
    if (shift + width > 64) rest |= words[1] << (64 - shift);
    return width < 64 ? rest & (((uint64_t)1 << width) - 1) : rest;
}

static uint64_t smi_index_start(const sagemem_index *x, uint64_t record) {
    if (x->kind == SAGEMEM_RECORDS_FIXED) return record * x->desc.record_bytes;
    const smi_index_block *b = &x->blocks[(size_t)(record / SMI_INDEX_BLOCK)];
    unsigned i = (unsigned)(record % SMI_INDEX_BLOCK);
    return b->base + i * b->step + smi_index_rest(x, b, i);
}
static uint64_t smi_index_behind(const sagemem_index *x, uint64_t record) {
    return record + 1 < x->count ? smi_index_start(x, record + 1) : x->end;
}

/* Room for `more` elements of 8 * k bytes behind `count`: twice as many each time, since large blocks grow without a copy. */
static bool smi_index_grow(const sagemem_index *x, void **data, size_t *room, size_t count, size_t more, size_t element_size,
                           const char *call) {
    if (more <= *room - count) return true;
    size_t wanted = *room < 64 ? 64 : *room * 2, bytes;
    if (wanted < count + more) wanted = count + more;
    if (wanted < *room || __builtin_mul_overflow(wanted, element_size, &bytes)) bytes = SIZE_MAX; /* which fails with a message */
    void *grown = *data == NULL ? smi_object_alloc(&x->object, 64, bytes, x->desc.tag, false, call)
                                : smi_realloc(*data, bytes, SAGEMEM_TAG_SAME, smi_nowhere, call);
    if (grown == NULL) return false;
    *data = grown;
    *room = wanted;
    return true;
}

/* What was noted of the block that is being filled. */
typedef struct smi_index_builder {
    sagemem_index *x;
    const char *call;
    uint64_t starts[SMI_INDEX_BLOCK];
    unsigned noted;
    sagemem_status status; /* once it has failed, nothing more is noted */
} smi_index_builder;

static void smi_index_pack(smi_index_builder *b) {
    sagemem_index *x = b->x;
    smi_index_block block = {b->starts[0], UINT64_MAX, 0};
    for (unsigned i = 1; i < b->noted; i++)
        if (b->starts[i] - b->starts[i - 1] < block.step) block.step = b->starts[i] - b->starts[i - 1];
    if (b->noted == 1) block.step = 0;
    uint64_t most = b->starts[b->noted - 1] - block.base - (b->noted - 1) * block.step;
    unsigned width = most == 0 ? 0 : 64 - (unsigned)__builtin_clzll(most);
    size_t words = (b->noted * width + 63) / 64;
    block.place = x->word_count | (uint64_t)width << SMI_INDEX_WIDTH_AT;
    if (!smi_index_grow(x, (void **)&x->blocks, &x->block_room, x->block_count, 1, sizeof block, b->call) ||
        !smi_index_grow(x, (void **)&x->words, &x->word_room, x->word_count, words, sizeof *x->words, b->call)) {
        b->status = smi_mine.error.status;
        return;
    }
    if (words > 0) memset(x->words + x->word_count, 0, words * sizeof *x->words);
    for (unsigned i = 0; i < b->noted && width > 0; i++) {
        uint64_t rest = b->starts[i] - block.base - i * block.step, *to = x->words + x->word_count + i * width / 64;
        unsigned shift = i * width % 64;
        to[0] |= rest << shift;
        if (shift + width > 64) to[1] |= rest >> (64 - shift);
    }
    x->blocks[x->block_count++] = block;
    x->word_count += words;
    b->noted = 0;
}

static void smi_index_note(smi_index_builder *b, uint64_t start) {
    if (b->status != SAGEMEM_OK) return;
    b->starts[b->noted++] = start;
    b->x->count++;
    if (b->noted == SMI_INDEX_BLOCK) smi_index_pack(b);
}

/* -- Indexes: looking through a map -- */

/* Delimiters and FASTA need no record in one piece. `line` says whether a line begins with the piece. */
static void smi_index_scan(smi_index_builder *b, const char *piece, size_t size, uint64_t at, bool *line) {
    const sagemem_index *x = b->x;
    bool fasta = x->kind == SAGEMEM_RECORDS_FASTA;
    int wanted = fasta ? '>' : x->desc.delimiter_plus_one - 1;
    const char *p = piece, *end = piece + size;
    while (p < end && (p = (const char *)memchr(p, wanted, (size_t)(end - p))) != NULL) {
        uint64_t here = at + (uint64_t)(p - piece);
        if (!fasta && here + 1 < x->end) smi_index_note(b, here + 1);
        if (fasta && (p > piece ? p[-1] == '\n' : *line)) smi_index_note(b, here);
        p++;
    }
    *line = end[-1] == '\n';
}

static sagemem_status smi_index_scan_all(smi_index_builder *b, sagemem_map *map) {
    sagemem_index *x = b->x;
    uint64_t most = map->desc.window != 0 && map->desc.window < SMI_INDEX_PIECE ? map->desc.window : (uint64_t)SMI_INDEX_PIECE;
    bool line = true;
    if (x->kind == SAGEMEM_RECORDS_DELIMITED && x->end > 0) smi_index_note(b, 0);
    for (uint64_t at = 0; at < x->end && b->status == SAGEMEM_OK; at += most) {
        size_t size = (size_t)(x->end - at < most ? x->end - at : most);
        const char *piece = (const char *)sagemem_map_view(map, at, size);
        if (piece == NULL) return smi_mine.error.status;
        smi_index_scan(b, piece, size, at, &line);
    }
    return b->status;
}

/* Shows boundary_fn twice as much again and again, until it sees the end of the record at `at`. */
static sagemem_status smi_index_ask(const sagemem_index *x, sagemem_map *map, uint64_t at, size_t *reach, uint64_t *record,
                                    const char *call) {
    for (uint64_t left = x->end - at;; *reach *= 2) {
        if (*reach > x->desc.max_record_bytes) *reach = x->desc.max_record_bytes;
        size_t size = left < *reach ? (size_t)left : *reach;
        const void *view = sagemem_map_view(map, at, size);
        if (view == NULL) return smi_mine.error.status;
        sagemem_error before = smi_mine.error;
        size_t n = x->desc.boundary_fn(x->desc.ctx, view, size);
        smi_mine.error = before;
        if (n > size)
            return smi_fail(SAGEMEM_E_CORRUPT, 0, call,
                            "boundary_fn says that the record at byte %llu has %zu bytes, of %zu; it must not say more",
                            (unsigned long long)at, n, size);
        *record = n > 0 ? n : left;
        if (n > 0 || size == left) return SAGEMEM_OK;
        if (size == x->desc.max_record_bytes)
            return smi_fail(SAGEMEM_E_TOO_BIG, 0, call,
                            "%s: the record at byte %llu is longer than %zu bytes, the most that boundary_fn is shown; set "
                            "max_record_bytes, or a larger window",
                            smi_path_shown(map->desc.path), (unsigned long long)at, size);
    }
}

static sagemem_status smi_index_ask_all(smi_index_builder *b, sagemem_map *map) {
    const sagemem_index *x = b->x;
    size_t reach = SMI_INDEX_REACH;
    for (uint64_t at = 0, record = 0; at < x->end && b->status == SAGEMEM_OK; at += record) {
        sagemem_status status = smi_index_ask(x, map, at, &reach, &record, b->call);
        if (status != SAGEMEM_OK) return status;
        smi_index_note(b, at);
    }
    return b->status;
}

/* Gives back what was taken in advance. */
static void smi_index_fit(void **data, size_t *room, size_t count, size_t element_size) {
    sagemem_error before = smi_mine.error;
    if (*data == NULL || count == *room || count == 0) return;
    void *fit = smi_realloc(*data, count * element_size, SAGEMEM_TAG_SAME, smi_nowhere, "sagemem_index_build");
    if (fit != NULL) *data = fit;
    if (fit != NULL) *room = count;
    smi_mine.error = before;
}

static sagemem_status smi_index_find_records(sagemem_index *x, sagemem_map *map, const char *call) {
    smi_index_builder b;
    memset(&b, 0, sizeof b);
    b.x = x;
    b.call = call;
    x->end = x->stamp.map_size;
    if (x->kind == SAGEMEM_RECORDS_FIXED) {
        x->count = x->end / x->desc.record_bytes + (x->end % x->desc.record_bytes != 0);
        return SAGEMEM_OK;
    }
    sagemem_status status = x->kind == SAGEMEM_RECORDS_CALLBACK ? smi_index_ask_all(&b, map) : smi_index_scan_all(&b, map);
    if (status == SAGEMEM_OK && b.noted > 0) smi_index_pack(&b);
    if (status == SAGEMEM_OK) status = b.status;
    if (status != SAGEMEM_OK) return status;
    x->first = x->count > 0 ? smi_index_start(x, 0) : x->end;
    smi_index_fit((void **)&x->blocks, &x->block_room, x->block_count, sizeof *x->blocks);
    smi_index_fit((void **)&x->words, &x->word_room, x->word_count, sizeof *x->words);
    return status;
}

/* -- Indexes: beginning -- */

static sagemem_status smi_index_stamp_of(const sagemem_map *map, smi_index_stamp *stamp, const char *call) {
    smi_os_info info;
    memset(stamp, 0, sizeof *stamp);
    if (!smi_os_info_of(map->file, &info))
        return smi_fail_file(call, map->desc.path, "repeat the call, or look at the disk", "could not be looked at");
    stamp->file_size = info.size;
    stamp->modified_ns = info.modified_ns;
    stamp->map_offset = map->desc.offset;
    stamp->map_size = map->size;
    return SAGEMEM_OK;
}

/* How many ways to tell records there are in a desc, and the last of them. */
static int smi_index_kinds(const sagemem_index_desc *d, sagemem_record_kind *kind) {
    if (d->record_bytes != 0) *kind = SAGEMEM_RECORDS_FIXED;
    if (d->delimiter_plus_one != 0) *kind = SAGEMEM_RECORDS_DELIMITED;
    if (d->fasta) *kind = SAGEMEM_RECORDS_FASTA;
    if (d->boundary_fn != NULL) *kind = SAGEMEM_RECORDS_CALLBACK;
    return (d->record_bytes != 0) + (d->delimiter_plus_one != 0) + d->fasta + (d->boundary_fn != NULL);
}

static sagemem_status smi_index_refuse(const sagemem_map *map, const sagemem_index_desc *d, int least, const char *call) {
    sagemem_record_kind kind;
    if (!smi_object_alive(map, &smi_filemap_kind, call)) return smi_mine.error.status;
    int given = d != NULL ? smi_index_kinds(d, &kind) : 0;
    if (given > 1 || given < least)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "%d of delimiter_plus_one, record_bytes, fasta and boundary_fn are given; give one", given);
    if (d == NULL) return SAGEMEM_OK;
    if (d->delimiter_plus_one < 0 || d->delimiter_plus_one > 256)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "delimiter_plus_one is %d; pass a byte, 0 to 255, and 1 more",
                        d->delimiter_plus_one);
    return smi_tag_known(d->tag, call) ? SAGEMEM_OK : SAGEMEM_E_ARGUMENT;
}

/* An index without records. Leaves its heap entered. */
static sagemem_index *smi_index_make(sagemem_map *map, const sagemem_index_desc *desc, const char *call) {
    sagemem_index *x = (sagemem_index *)smi_object_create(desc->heap, &smi_index_kind, desc->name, call);
    if (x == NULL) return NULL;
    x->desc = *desc;
    x->desc.heap = x->object.domain->base;
    x->desc.name = smi_object_name(&x->object);
    if (desc->max_record_bytes == 0) x->desc.max_record_bytes = SMI_INDEX_RECORD_MAX;
    if (map->desc.window != 0 && map->desc.window < x->desc.max_record_bytes) x->desc.max_record_bytes = (size_t)map->desc.window;
    (void)smi_index_kinds(desc, &x->kind);
    x->map = map;
    x->map_serial = map->serial;
    return x;
}

/* Leaves the heap: with the index, or without it. */
static sagemem_index *smi_index_made(sagemem_index *x, sagemem_status status) {
    smi_domain *h = x->object.domain->base;
    if (status != SAGEMEM_OK) smi_object_end(&x->object);
    smi_leave(h);
    return status == SAGEMEM_OK ? x : NULL;
}

SAGEMEM_API sagemem_index *sagemem_index_build(sagemem_map *map, const sagemem_index_desc *desc) {
    const char *call = "sagemem_index_build";
    smi_index_stamp after;
    if (smi_index_refuse(map, desc, 1, call) != SAGEMEM_OK) return NULL;
    sagemem_index *x = smi_index_make(map, desc, call);
    if (x == NULL) return NULL;
    sagemem_status status = smi_index_stamp_of(map, &x->stamp, call);
    if (status == SAGEMEM_OK) status = smi_index_find_records(x, map, call);
    if (status == SAGEMEM_OK) status = smi_index_stamp_of(map, &after, call);
    if (status == SAGEMEM_OK && memcmp(&after, &x->stamp, sizeof after) != 0)
        status = smi_fail(SAGEMEM_E_STALE, 0, call, "%s was changed while its index was built; refresh the map, and build it again",
                          smi_path_shown(map->desc.path));
    return smi_index_made(x, status);
}

SAGEMEM_API void sagemem_index_destroy(sagemem_index *index) {
    if (index == NULL || !smi_object_enter(index, &smi_index_kind, "sagemem_index_destroy")) return;
    smi_domain *h = index->object.domain->base;
    smi_object_end(&index->object);
    smi_leave(h);
}

/* -- Indexes: files -- */

static uint32_t smi_index_header_sum(const smi_index_header *h) { return smi_crc32c(0, h, offsetof(smi_index_header, checksum)); }

static void smi_index_describe(const sagemem_index *x, smi_index_header *h) {
    memset(h, 0, sizeof *h);
    memcpy(h->magic, smi_index_magic, sizeof h->magic);
    h->version = SMI_INDEX_VERSION;
    h->byte_order = SMI_INDEX_ORDER;
    h->bytes = sizeof *h + x->block_count * (uint64_t)sizeof *x->blocks + x->word_count * (uint64_t)sizeof *x->words;
    h->stamp = x->stamp;
    h->count = x->count;
    h->first = x->first;
    h->end = x->end;
    h->record_bytes = x->desc.record_bytes;
    h->block_count = x->block_count;
    h->word_count = x->word_count;
    h->kind = (uint32_t)x->kind;
    h->delimiter = x->kind == SAGEMEM_RECORDS_DELIMITED ? (uint32_t)x->desc.delimiter_plus_one - 1 : 0;
    h->data_checksum = smi_crc32c(0, x->blocks, x->block_count * sizeof *x->blocks);
    h->data_checksum = smi_crc32c(h->data_checksum, x->words, x->word_count * sizeof *x->words);
    h->checksum = smi_index_header_sum(h);
}

/* The calling thread's heap pays for the writer: the index may be another's. */
SAGEMEM_API sagemem_status sagemem_index_save(const sagemem_index *index, const char *path) {
    const char *call = "sagemem_index_save";
    if (path == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "path is NULL: name the file to write");
    if (!smi_object_alive(index, &smi_index_kind, call)) return smi_mine.error.status;
    smi_index_header header;
    smi_index_describe(index, &header);
    sagemem_writer_desc w;
    memset(&w, 0, sizeof w);
    w.path = path;
    w.atomic = true;
    w.tag = index->desc.tag;
    sagemem_writer *writer = sagemem_writer_open(&w);
    sagemem_status status = writer != NULL ? sagemem_write(writer, &header, sizeof header) : smi_mine.error.status;
    if (status == SAGEMEM_OK) status = sagemem_write(writer, index->blocks, index->block_count * sizeof *index->blocks);
    if (status == SAGEMEM_OK) status = sagemem_write(writer, index->words, index->word_count * sizeof *index->words);
    if (status == SAGEMEM_OK) status = sagemem_writer_close(writer);
    if (status == SAGEMEM_OK) return status;
    smi_mine.error.call = call;
    sagemem_error error = smi_mine.error;
    sagemem_writer_abandon(writer);
    smi_mine.error = error;
    return status;
}

/* The file that an index is loaded from. */
typedef struct smi_index_file {
    smi_os_handle handle;
    const char *path, *call;
    uint64_t size, at;
} smi_index_file;

static sagemem_status smi_index_corrupt(const smi_index_file *f, const char *what) {
    return smi_fail(SAGEMEM_E_CORRUPT, 0, f->call, "%s %s; build it again", smi_path_shown(f->path), what);
}
static sagemem_status smi_index_stale(const smi_index_file *f, const char *what, uint64_t then, uint64_t now) {
    return smi_fail(SAGEMEM_E_STALE, 0, f->call, "%s is the index of something else: %s was %llu, and is %llu; build it again",
                    smi_path_shown(f->path), what, (unsigned long long)then, (unsigned long long)now);
}

static sagemem_status smi_index_read(smi_index_file *f, void *to, size_t size) {
    for (size_t done = 0, got; done < size; done += got) {
        unsigned long long where = f->at + done;
        if (!smi_os_read_at(f->handle, (char *)to + done, size - done, where, &got))
            return smi_fail_file(f->call, f->path, "the call can be repeated", "reading at byte %llu failed", where);
        if (got == 0) return smi_index_corrupt(f, "is cut short");
    }
    f->at += size;
    return SAGEMEM_OK;
}

/* Of the file itself: nothing in it is to be believed but that it was written so. */
static sagemem_status smi_index_header_read(smi_index_file *f, smi_index_header *h) {
    if (f->size < sizeof *h) return smi_index_corrupt(f, "is no index, or cut short");
    sagemem_status status = smi_index_read(f, h, sizeof *h);
    if (status != SAGEMEM_OK) return status;
    if (memcmp(h->magic, smi_index_magic, sizeof h->magic) != 0) return smi_index_corrupt(f, "is no index");
    bool swapped = h->byte_order == __builtin_bswap32(SMI_INDEX_ORDER);
    if (h->byte_order != SMI_INDEX_ORDER && !swapped) return smi_index_corrupt(f, "has a damaged header");
    if ((swapped ? __builtin_bswap32(h->checksum) : h->checksum) != smi_index_header_sum(h))
        return smi_index_corrupt(f, "has a damaged header: its checksum does not match");
    if (swapped)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, f->call, "%s was saved on a machine of the other byte order; build it again",
                        smi_path_shown(f->path));
    if (h->version > SMI_INDEX_VERSION)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, f->call, "%s has version %u, this library reads up to %u; build it again",
                        smi_path_shown(f->path), h->version, SMI_INDEX_VERSION);
    if (h->bytes != f->size) return smi_index_corrupt(f, "is cut short, or something follows it");
    return SAGEMEM_OK;
}

/* The index is one of the map as it is now, and of the records that are wanted. */
static sagemem_status smi_index_fits(const smi_index_file *f, const smi_index_header *h, const sagemem_map *map,
                                     const sagemem_index_desc *desc) {
    smi_index_stamp now;
    sagemem_record_kind kind;
    sagemem_status status = smi_index_stamp_of(map, &now, f->call);
    if (status != SAGEMEM_OK) return status;
    if (h->stamp.file_size != now.file_size) return smi_index_stale(f, "the file's size", h->stamp.file_size, now.file_size);
    if (h->stamp.modified_ns != now.modified_ns)
        return smi_index_stale(f, "the file's time of change in ns", h->stamp.modified_ns, now.modified_ns);
    if (h->stamp.map_offset != now.map_offset) return smi_index_stale(f, "the map's offset", h->stamp.map_offset, now.map_offset);
    if (h->stamp.map_size != now.map_size) return smi_index_stale(f, "the map's size", h->stamp.map_size, now.map_size);
    if (smi_index_kinds(desc, &kind) == 0) return SAGEMEM_OK;
    if (h->kind != (uint32_t)kind) return smi_index_stale(f, "the kind of records", h->kind, (uint64_t)kind);
    if (h->record_bytes != desc->record_bytes) return smi_index_stale(f, "record_bytes", h->record_bytes, desc->record_bytes);
    if (kind == SAGEMEM_RECORDS_DELIMITED && h->delimiter != (uint32_t)desc->delimiter_plus_one - 1)
        return smi_index_stale(f, "the delimiter", h->delimiter, (uint64_t)desc->delimiter_plus_one - 1);
    return SAGEMEM_OK;
}

/* The numbers in the header agree with each other, with the file's size and with the map. */
static bool smi_index_sensible(const smi_index_header *h) {
    uint64_t data = h->bytes - sizeof *h, size = h->stamp.map_size;
    bool fixed = h->kind == SAGEMEM_RECORDS_FIXED;
    if (h->version == 0 || h->kind > SAGEMEM_RECORDS_CALLBACK || h->delimiter > 255 || h->end != size || h->first > size)
        return false;
    if (h->block_count > data / sizeof(smi_index_block)) return false;
    data -= h->block_count * sizeof(smi_index_block);
    if (data % sizeof(uint64_t) != 0 || h->word_count != data / sizeof(uint64_t)) return false;
    if (fixed)
        return h->record_bytes > 0 && (size_t)h->record_bytes == h->record_bytes && h->bytes == sizeof *h && h->first == 0 &&
               h->count == size / h->record_bytes + (size % h->record_bytes != 0);
    return h->record_bytes == 0 && h->block_count == h->count / SMI_INDEX_BLOCK + (h->count % SMI_INDEX_BLOCK != 0) &&
           (h->kind == SAGEMEM_RECORDS_FASTA || (h->count == 0) == (size == 0));
}

/* Every record has a byte and is behind the one before, no rest lies outside of the words. */
static bool smi_index_block_sound(const sagemem_index *x, size_t number, uint64_t *before) {
    const smi_index_block *b = &x->blocks[number];
    uint64_t left = x->count - (uint64_t)number * SMI_INDEX_BLOCK, place = smi_index_place(b);
    unsigned n = left < SMI_INDEX_BLOCK ? (unsigned)left : (unsigned)SMI_INDEX_BLOCK, width = smi_index_width(b);
    if (width > 64 || place > x->word_count || (n * width + 63) / 64 > x->word_count - place) return false;
    for (unsigned i = 0; i < n; i++) {
        uint64_t start = smi_index_start(x, (uint64_t)number * SMI_INDEX_BLOCK + i);
        bool good = number == 0 && i == 0 ? start == x->first : start > *before;
        if (!good || start >= x->end) return false;
        *before = start;
    }
    return true;
}
static bool smi_index_sound(const sagemem_index *x) {
    uint64_t before = 0;
    if (x->kind != SAGEMEM_RECORDS_FIXED && x->count == 0 && x->first != x->end) return false;
    if (x->kind != SAGEMEM_RECORDS_FASTA && x->first != 0) return false;
    for (size_t i = 0; i < x->block_count; i++)
        if (!smi_index_block_sound(x, i, &before)) return false;
    return true;
}

/* Takes what the header describes, and looks at all of it. */
static sagemem_status smi_index_fill(sagemem_index *x, smi_index_file *f, const smi_index_header *h) {
    if (h->bytes > (uint64_t)PTRDIFF_MAX)
        return smi_fail(SAGEMEM_E_NOMEM, 0, f->call, "%s has %llu bytes, more than there are addresses for",
                        smi_path_shown(f->path), (unsigned long long)h->bytes);
    x->kind = (sagemem_record_kind)h->kind;
    x->desc.record_bytes = (size_t)h->record_bytes;
    x->desc.fasta = x->kind == SAGEMEM_RECORDS_FASTA;
    x->desc.delimiter_plus_one = x->kind == SAGEMEM_RECORDS_DELIMITED ? (int)h->delimiter + 1 : 0;
    x->stamp = h->stamp;
    x->count = h->count;
    x->first = h->first;
    x->end = h->end;
    size_t blocks = (size_t)h->block_count, words = (size_t)h->word_count;
    if (!smi_index_grow(x, (void **)&x->blocks, &x->block_room, 0, blocks, sizeof *x->blocks, f->call) ||
        !smi_index_grow(x, (void **)&x->words, &x->word_room, 0, words, sizeof *x->words, f->call))
        return smi_mine.error.status;
    sagemem_status status = smi_index_read(f, x->blocks, blocks * sizeof *x->blocks);
    if (status == SAGEMEM_OK) status = smi_index_read(f, x->words, words * sizeof *x->words);
    if (status != SAGEMEM_OK) return status;
    x->block_count = blocks;
    x->word_count = words;
    uint32_t sum = smi_crc32c(0, x->blocks, blocks * sizeof *x->blocks);
    if (smi_crc32c(sum, x->words, words * sizeof *x->words) != h->data_checksum)
        return smi_index_corrupt(f, "is damaged: its checksum does not match");
    return smi_index_sound(x) ? SAGEMEM_OK : smi_index_corrupt(f, "makes no sense: its records do not lie one behind the other");
}

static sagemem_index *smi_index_load(smi_index_file *f, sagemem_map *map, const sagemem_index_desc *desc) {
    smi_index_header header;
    memset(&header, 0, sizeof header);
    if (smi_index_header_read(f, &header) != SAGEMEM_OK) return NULL;
    if (!smi_index_sensible(&header)) {
        smi_index_corrupt(f, "has a header that makes no sense");
        return NULL;
    }
    if (smi_index_fits(f, &header, map, desc) != SAGEMEM_OK) return NULL;
    sagemem_index *x = smi_index_make(map, desc, f->call);
    return x != NULL ? smi_index_made(x, smi_index_fill(x, f, &header)) : NULL;
}

SAGEMEM_API sagemem_index *sagemem_index_load(sagemem_map *map, const char *path, const sagemem_index_desc *desc) {
    static const sagemem_index_desc defaults = {0, 0, false, NULL, NULL, 0, NULL, NULL, 0};
    const char *call = "sagemem_index_load";
    smi_index_file f = {smi_os_no_handle(), path, call, 0, 0};
    smi_os_info info;
    if (path == NULL) smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "path is NULL: name the file that sagemem_index_save wrote");
    if (path == NULL || smi_index_refuse(map, desc, 0, call) != SAGEMEM_OK) return NULL;
    if (!smi_os_open_regular(&f.handle, path, false, &info)) {
        smi_fail_file(call, path, "build the index, and save it", "cannot be opened");
        return NULL;
    }
    sagemem_index *x = NULL;
    f.size = info.size;
    if (f.handle == smi_os_no_handle()) {
        smi_index_corrupt(&f, "is no file");
    } else {
        x = smi_index_load(&f, map, desc != NULL ? desc : &defaults);
        (void)smi_os_close(f.handle);
    }
    return x;
}

/* -- Indexes: use -- */

SAGEMEM_API sagemem_status sagemem_index_get_desc(const sagemem_index *index, sagemem_index_desc *out) {
    const char *call = "sagemem_index_get_desc";
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_index_desc");
    if (!smi_object_alive(index, &smi_index_kind, call)) return smi_mine.error.status;
    *out = index->desc;
    return SAGEMEM_OK;
}

SAGEMEM_API uint64_t sagemem_index_count(const sagemem_index *index) {
    return smi_object_alive(index, &smi_index_kind, "sagemem_index_count") ? index->count : 0;
}

SAGEMEM_API sagemem_record_kind sagemem_index_kind(const sagemem_index *index) {
    return smi_object_alive(index, &smi_index_kind, "sagemem_index_kind") ? index->kind : SAGEMEM_RECORDS_FIXED;
}

SAGEMEM_API uint64_t sagemem_index_bytes(const sagemem_index *index) {
    if (!smi_object_alive(index, &smi_index_kind, "sagemem_index_bytes")) return 0;
    return (uint64_t)(index->blocks != NULL ? sagemem_size(index->blocks) : 0) +
           (index->words != NULL ? sagemem_size(index->words) : 0);
}

static sagemem_status smi_index_where(const sagemem_index *x, uint64_t record, uint64_t *offset, uint64_t *size, const char *call) {
    if (!smi_object_alive(x, &smi_index_kind, call)) return smi_mine.error.status;
    if (record >= x->count)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "record %llu of %llu is asked for; they are numbered from 0",
                        (unsigned long long)record, (unsigned long long)x->count);
    *offset = smi_index_start(x, record);
    *size = smi_index_behind(x, record) - *offset;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_index_get(const sagemem_index *index, uint64_t record, uint64_t *offset, uint64_t *size) {
    uint64_t at = 0, bytes = 0;
    sagemem_status status = smi_index_where(index, record, &at, &bytes, "sagemem_index_get");
    if (status == SAGEMEM_OK && offset != NULL) *offset = at;
    if (status == SAGEMEM_OK && size != NULL) *size = bytes;
    return status;
}

SAGEMEM_API sagemem_status sagemem_index_find(const sagemem_index *index, uint64_t offset, uint64_t *record) {
    const char *call = "sagemem_index_find";
    if (record == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "record is NULL: pass where the number goes");
    if (!smi_object_alive(index, &smi_index_kind, call)) return smi_mine.error.status;
    if (offset < index->first || offset >= index->end)
        return smi_fail(SAGEMEM_E_NOT_FOUND, 0, call, "byte %llu is in no record; they lie from %llu to %llu",
                        (unsigned long long)offset, (unsigned long long)index->first, (unsigned long long)index->end);
    uint64_t low = 0, high = index->count; /* it is in low ... high - 1 */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (smi_index_start(index, middle) <= offset) low = middle;
        else high = middle;
    }
    *record = low;
    return SAGEMEM_OK;
}

static const void *smi_index_view(const sagemem_index *x, uint64_t record, size_t *size, const char *call) {
    uint64_t offset = 0, bytes = 0;
    if (smi_index_where(x, record, &offset, &bytes, call) != SAGEMEM_OK) return NULL;
    if (!smi_object_alive(x->map, &smi_filemap_kind, call)) return NULL;
    if (x->map->serial != x->map_serial) {
        smi_fail(SAGEMEM_E_STALE, 0, call, "the map was refreshed or closed after the index was built; build it again");
        return NULL;
    }
    if (bytes > SIZE_MAX / 2) {
        smi_fail(SAGEMEM_E_TOO_BIG, 0, call, "record %llu has %llu bytes, more than there are addresses for; read it in parts",
                 (unsigned long long)record, (unsigned long long)bytes);
        return NULL;
    }
    *size = (size_t)bytes;
    return sagemem_map_view(x->map, offset, *size);
}

SAGEMEM_API const void *sagemem_index_view(const sagemem_index *index, uint64_t record, size_t *size) {
    size_t bytes;
    const void *view = smi_index_view(index, record, &bytes, "sagemem_index_view");
    if (view != NULL && size != NULL) *size = bytes;
    return view;
}

#endif /* SAGEMEM_WITH_IO */

#if SAGEMEM_WITH_IO && SAGEMEM_WITH_SLICE

static void smi_index_release(void *ctx, const void *data) {
    (void)data;
    smi_filemap_lease_drop((smi_filemap_lease *)ctx);
}

/* One holder more of the map's bytes. NULL: the error is set. Any thread may be the first. */
static smi_filemap_lease *smi_index_hold(sagemem_map *map, const char *call) {
    smi_filemap_lease *lease = SMI_LOAD_ACQUIRE(&map->lease);
    if (lease == NULL) {
        smi_filemap_lease *fresh = NULL;
        if (smi_os_fails()) smi_fail_system(call, sizeof *fresh);
        else fresh = (smi_filemap_lease *)smi_meta_alloc(sizeof *fresh);
        if (fresh == NULL) return NULL;
        fresh->holders = 1; /* the map's */
        while (lease == NULL && !SMI_CAS(&map->lease, &lease, fresh)) continue;
        if (lease != NULL) smi_meta_free(fresh, sizeof *fresh);
        else lease = fresh;
    }
    SMI_ATOMIC_ADD(&lease->holders, 1);
    return lease;
}

SAGEMEM_API sagemem_slice sagemem_index_slice(const sagemem_index *index, uint64_t record) {
    const char *call = "sagemem_index_slice";
    sagemem_slice slice = smi_slice_none;
    if (!smi_object_alive(index, &smi_index_kind, call) || !smi_object_alive(index->map, &smi_filemap_kind, call)) return slice;
    if (index->map->desc.window != 0) {
        smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "%s is mapped through a window, which does not stay; copy what view shows",
                 smi_path_shown(index->map->desc.path));
        return slice;
    }
    size_t size;
    const void *view = smi_index_view(index, record, &size, call);
    smi_filemap_lease *lease = view != NULL ? smi_index_hold(index->map, call) : NULL;
    if (lease == NULL) return slice;
    slice = sagemem_slice_wrap(view, size, smi_index_release, lease);
    if (slice.owner == NULL) smi_filemap_lease_drop(lease);
    return slice;
}

#endif /* SAGEMEM_WITH_IO && SAGEMEM_WITH_SLICE */

/* ==========================================================================
 * >>report  One look at the counters, in the form that is asked for.
 *
 *   gathering - writing - text, one line - JSON, CSV, Prometheus, folded
 *   stacks - HTML - differences - leaks - the public calls
 *
 *           A report is two steps. Gathering copies all numbers into a snapshot,
 *           with locks held; writing reads that alone, so that a sink may call
 *           the library, and every form adds up to the same. Calls only what
 *           >>heap counts; nobody calls it.
 * ========================================================================== */
#if SAGEMEM_WITH_REPORT

/* -- Gathering ---------------------------------------------------------------------------------------------------
 *
 *    sagemem_snapshot | tags | owners | cells | past | files | sites | order
 *
 *    An owner is the process, a heap or an open scope, what encloses it before it. Of each the cells, in the order of
 *    tags, have what is its own: so the sum over all cells is the total, whatever the rows of a report are. Names are
 *    interned and outlive everything; names of files are copied.
 *
 *    How much room it takes is known when it is done: what does not fit is counted, and it is done again. The first
 *    try is on the desk, where nothing need be allocated, and most programs never need more. */

typedef struct smi_snap_tag {
    smi_sums sum;
    uint64_t peak, peak_blocks, at_peak;
    const char *name; /* NULL: it has none */
    uint32_t group;   /* bytes of the name in front of the slash */
    uint64_t group_at_peak;
} smi_snap_tag;

typedef struct smi_snap_owner {
    const char *name;
    uint64_t id, key;      /* scope; what tells it from any other, also of another snapshot */
    uint32_t parent, heap; /* what encloses it; the heap that it is or that it is a scope of. Of the first: itself */
    uint32_t cell, cells;
    bool is_scope;
    smi_sums own, all; /* all: with what it encloses */
    uint64_t peak, held, held_peak, limit, reserved, mapped, overhead, huge_page_bytes;
} smi_snap_owner;

typedef struct smi_snap_cell {
    smi_sums sum;
    uint64_t peak;
    uint32_t owner;
    sagemem_tag tag;
} smi_snap_cell;

typedef struct smi_snap_past {
    smi_past_scope scope;
    uint64_t ago_ns, duration_ns; /* it was begun before the snapshot; and was open */
    uint32_t heap;
} smi_snap_past;

typedef struct smi_snap_file {
    char name[SMI_NAME_MAX + 16];
    const char *kind;
    uint64_t mapped, buffered;
    uint32_t owner;
} smi_snap_file;

typedef struct smi_snap_site {
    const char *file; /* NULL: an empty place of the table, while it is one */
    uint64_t bytes, blocks;
    uint32_t owner;
    int line;
    sagemem_tag tag;
} smi_snap_site;

/* How many there is room for, or are. */
typedef struct smi_snap_room {
    uint32_t tags, owners, cells, past, files, sites;
} smi_snap_room;

struct sagemem_snapshot {
    size_t bytes;
    uintptr_t magic;          /* not in front: there the link of free memory is */
    uint64_t taken_ns, taken; /* taken: smi_os_ticks */
    uint64_t resident, library, peak;
    bool is_process, on_desk, sorted;
    smi_snap_room room, n;
    smi_snap_tag *tags; /* by number */
    smi_snap_owner *owners, owner_spill;
    smi_snap_cell *cells, cell_spill;
    smi_snap_past *past;
    smi_snap_file *files;
    smi_snap_site *sites; /* a hash table while it is gathered; then by owner, tag, file and line */
    uint16_t *order;      /* tags by group, the largest first; see smi_snap_sort */
    uint32_t ordered;
};

static const uintptr_t SMI_SNAP_MAGIC = (uintptr_t)0x2F61C40B77D19E53u;
enum { SMI_SNAP_DESK = 65536 };
static uint64_t smi_snap_desk[SMI_SNAP_DESK / 8]; /* not a byte of memory before the first report */
static uint32_t smi_snap_desk_taken;
static smi_snap_room smi_snap_usual; /* what the process needed last; under smi_registry_lock */

static size_t smi_snap_bytes(const smi_snap_room *r) {
    return sizeof(sagemem_snapshot) + r->tags * sizeof(smi_snap_tag) + r->owners * sizeof(smi_snap_owner) +
           r->cells * sizeof(smi_snap_cell) + r->past * sizeof(smi_snap_past) + r->files * sizeof(smi_snap_file) +
           r->sites * sizeof(smi_snap_site) + r->tags * sizeof(uint16_t);
}

static sagemem_snapshot *smi_snap_lay(void *at, const smi_snap_room *room) {
    sagemem_snapshot *s = (sagemem_snapshot *)at;
    memset(s, 0, sizeof *s);
    s->room = *room;
    s->bytes = smi_snap_bytes(room);
    s->tags = (smi_snap_tag *)(void *)(s + 1);
    s->owners = (smi_snap_owner *)(void *)(s->tags + room->tags);
    s->cells = (smi_snap_cell *)(void *)(s->owners + room->owners);
    s->past = (smi_snap_past *)(void *)(s->cells + room->cells);
    s->files = (smi_snap_file *)(void *)(s->past + room->past);
    s->sites = (smi_snap_site *)(void *)(s->files + room->files);
    s->order = (uint16_t *)(void *)(s->sites + room->sites);
    memset(s->tags, 0, room->tags * sizeof *s->tags);
    memset(s->sites, 0, room->sites * sizeof *s->sites);
    return s;
}

/* What the scopes inside of d have of a tag, which d counts as well. Their counters may move meanwhile: never below nothing. */
static void smi_snap_subtract(const smi_domain *d, sagemem_tag tag, smi_sums *s) {
    for (const smi_domain *in = NULL; (in = smi_domain_inside(d, in)) != NULL;) {
        smi_sums less = {0, 0, 0, 0};
        smi_own_sum(in, tag, &less);
        s->bytes = smi_minus(s->bytes, less.bytes);
        s->blocks = smi_minus(s->blocks, less.blocks);
        s->total_bytes = smi_minus(s->total_bytes, less.total_bytes);
        s->total_blocks = smi_minus(s->total_blocks, less.total_blocks);
    }
}

SMI_INLINE void smi_snap_add(smi_sums *to, const smi_sums *more) {
    to->bytes += more->bytes;
    to->blocks += more->blocks;
    to->total_bytes += more->total_bytes;
    to->total_blocks += more->total_blocks;
}

SMI_INLINE void smi_snap_cell_add(sagemem_snapshot *s, smi_snap_owner *o, uint32_t owner, uint32_t tag, const smi_record *r,
                                  const smi_sums *sum) {
    smi_snap_cell *c = s->n.cells < s->room.cells ? &s->cells[s->n.cells] : &s->cell_spill;
    uint64_t peak = SMI_LOAD(&r->peak);
    s->n.cells++;
    o->cells++;
    c->sum = *sum;
    c->peak = peak > sum->bytes ? peak : sum->bytes;
    c->owner = owner;
    c->tag = (sagemem_tag)tag;
    smi_snap_add(&o->own, sum);
    if (tag < s->room.tags) smi_snap_add(&s->tags[tag].sum, sum);
}

/* Slab pages end in what is too small for a block. */
static uint64_t smi_snap_tails(const smi_record *r) {
    uint64_t bytes = 0;
    for (const smi_page *p = r->slabs; p != NULL; p = p->domain_next) bytes += p->bytes - (size_t)p->capacity * p->block_size;
    return bytes;
}

static void smi_snap_cells(sagemem_snapshot *s, smi_snap_owner *o, uint32_t owner, const smi_domain *d) {
    uint32_t groups = SMI_LOAD(&d->groups_end);
    uint64_t headered = 0;
    bool fresh = SMI_LOAD(&d->fresh), encloses = smi_domain_inside(d, NULL) != NULL;
    if (groups * SMI_GROUP > s->n.tags) s->n.tags = groups * SMI_GROUP;
    o->cell = s->n.cells;
    for (uint32_t g = 0; g < groups; g++) {
        const smi_group *group = SMI_LOAD_ACQUIRE(&d->group[g]);
        for (uint32_t i = 0; group != NULL && i < SMI_GROUP; i++) {
            const smi_record *r = &group->record[i];
            bool never = SMI_LOAD(&r->alloc_blocks) == 0 && r->slabs == NULL && SMI_LOAD(&r->gone_blocks) == 0;
            if (never && (!fresh || SMI_LOAD(&group->fresh[i]) == 0)) continue;
            smi_sums sum = {0, 0, 0, 0};
            uint32_t tag = g * SMI_GROUP + i;
            smi_record_sum(r, fresh ? &group->fresh[i] : NULL, &sum);
            if (encloses) smi_snap_subtract(d, (sagemem_tag)tag, &sum);
            headered += smi_record_blocks(r) + (fresh ? smi_fresh_blocks(SMI_LOAD(&group->fresh[i])) : 0);
            if (r->slabs != NULL) o->overhead += smi_snap_tails(r);
            if (sum.total_blocks > 0) smi_snap_cell_add(s, o, owner, tag, r, &sum);
        }
    }
    o->overhead += smi_headers(d, headered);
}

static void smi_snap_files(sagemem_snapshot *s, uint32_t owner, const smi_domain *d) {
    for (const smi_object *object = d->objects; object != NULL; object = object->older) {
        if (object->file == NULL) continue;
        if (s->n.files < s->room.files) {
            smi_snap_file *f = &s->files[s->n.files];
            size_t length = strlen(object->file);
            bool cut = length >= sizeof f->name; /* the end says more than the front */
            smi_text(f->name, sizeof f->name, "%s%s", cut ? "..." : "",
                     cut ? object->file + length - (sizeof f->name - 4) : object->file);
            f->kind = object->kind->name;
            f->mapped = SMI_LOAD(&object->mapped);
            f->buffered = SMI_LOAD(&object->buffered);
            f->owner = owner;
        }
        s->n.files++;
    }
}

/* One heap or scope. Under its heap's lock. */
static void smi_snap_domain(sagemem_snapshot *s, const smi_domain *d, uint32_t parent, uint32_t heap) {
    uint32_t index = s->n.owners++;
    smi_snap_owner *o = index < s->room.owners ? &s->owners[index] : &s->owner_spill;
    memset(o, 0, sizeof *o);
    o->name = d->name;
    o->is_scope = d->base != d;
    o->id = d->id;
    o->key = o->is_scope ? d->salt : (uint64_t)(uintptr_t)d;
    o->parent = parent;
    o->heap = heap;
    o->held = SMI_LOAD(&d->budget.held);
    o->held_peak = SMI_LOAD(&d->budget.peak);
    o->limit = SMI_LOAD(&d->budget.limit);
    o->reserved = SMI_LOAD(&d->budget.reserved);
    o->mapped = SMI_LOAD(&d->mapped);
    o->huge_page_bytes = SMI_LOAD(&d->huge_page_bytes);
    smi_snap_cells(s, o, index, d);
    o->peak = smi_peak_of(d);
    smi_snap_files(s, index, d);
}

/* Of the scopes that have ended in a heap. */
static void smi_snap_remember(sagemem_snapshot *s, const smi_past *past, uint32_t heap) {
    for (uint32_t i = 0; past != NULL && i < past->slots; i++, s->n.past++) {
        if (s->n.past >= s->room.past) continue;
        smi_snap_past *p = &s->past[s->n.past];
        p->scope = past->slot[i];
        p->heap = heap;
    }
}

/* -- Sites: heaps that know them are walked block by block, where nobody else can be changing them: those of the calling
 *    thread, shared ones that no other thread uses now, and default heaps whose threads have ended. */

typedef struct smi_snap_walk {
    sagemem_snapshot *snapshot;
    uint32_t owner;
} smi_snap_walk;

static bool smi_snap_site_is(const smi_snap_site *a, uint32_t owner, sagemem_tag tag, const char *file, int line) {
    return a->owner == owner && a->tag == tag && a->line == line && strcmp(a->file, file) == 0;
}

static void smi_snap_site_add(void *ctx, const smi_ref *ref, void *block) {
    const smi_snap_walk *w = (const smi_snap_walk *)ctx;
    sagemem_snapshot *s = w->snapshot;
    (void)block;
    if (ref->file == NULL) return;
    uint32_t mask = s->room.sites - 1, key = smi_hash_text(ref->file) + (uint32_t)ref->line * 31u + ref->tag * 17u + w->owner * 7u;
    uint32_t at = (uint32_t)((uint64_t)key * SMI_MIX >> 40) & mask;
    while (s->room.sites > 0 && s->sites[at].file != NULL &&
           !smi_snap_site_is(&s->sites[at], w->owner, ref->tag, ref->file, ref->line))
        at = (at + 1) & mask;
    if (s->room.sites == 0 || (s->sites[at].file == NULL && s->n.sites >= s->room.sites / 2)) {
        s->n.sites = s->room.sites + 1; /* too full, however many there are */
        return;
    }
    smi_snap_site *site = &s->sites[at];
    if (site->file == NULL) s->n.sites++;
    site->file = ref->file;
    site->line = ref->line;
    site->owner = w->owner;
    site->tag = ref->tag;
    site->bytes += ref->size;
    site->blocks++;
}

/* Whether the blocks of a heap can be walked; a shared one is locked. Under smi_registry_lock, so that no thread takes the heap
 * over meanwhile; a use lock comes before that one, so it is not waited for. */
static bool smi_snap_sites_begin(smi_domain *h) {
    if ((h->flags & (SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SYSTEM)) == 0 || h->frozen) return false;
    uintptr_t whose = SMI_LOAD_ACQUIRE(&h->owner);
    return whose == smi_self() || (whose == 0 && h->is_default) || (whose == SMI_ANY && smi_use_try(h));
}

static void smi_snap_sites(sagemem_snapshot *s, smi_domain *h, uint32_t owner) {
    smi_snap_walk walk = {s, owner};
    for (smi_domain *d = h; d != NULL && s->n.sites <= s->room.sites; d = smi_domain_after(h, d), walk.owner++)
        smi_visit_domain(d, smi_snap_site_add, &walk);
    smi_leave(h);
}

/* A heap's peaks are brought up to date by those below it, which comes later. */
static void smi_snap_heap_peaks(sagemem_snapshot *s, const smi_domain *h, smi_snap_owner *o) {
    o->peak = smi_peak_of(h);
    for (uint32_t i = o->cell; i < o->cell + o->cells && i < s->room.cells; i++) {
        uint64_t peak = SMI_LOAD(&smi_record_of(h, s->cells[i].tag)->peak);
        if (peak > s->cells[i].peak) s->cells[i].peak = peak;
    }
}

/* A heap, its open scopes, and the heaps below; its counters are looked at while they are in the cache, so heap by heap. Under
 * smi_registry_lock. */
static void smi_snap_heap(sagemem_snapshot *s, smi_domain *h, uint32_t parent) {
    uint32_t index = s->n.owners;
    bool sites = h != &smi_process && smi_snap_sites_begin(h);
    smi_lock_take(&h->lock);
    if (h != &smi_process) smi_publish(h, false);
    for (smi_domain *d = h; d != NULL; d = smi_domain_after(h, d)) {
        uint32_t outside = d == h ? parent : d->outer == h ? index : s->n.owners - 1;
        smi_snap_domain(s, d, outside, index);
    }
    smi_snap_remember(s, h->past, index);
    smi_lock_give(&h->lock);
    if (sites) smi_snap_sites(s, h, index);
    for (smi_domain *c = h->children; c != NULL; c = c->sibling_next) smi_snap_heap(s, c, index);
    if (h->children != NULL && index < s->room.owners) smi_snap_heap_peaks(s, h, &s->owners[index]);
}

/* What made the peak of the first owner. */
static void smi_snap_peaks(sagemem_snapshot *s, smi_domain *root) {
    smi_lock_take(&root->lock);
    smi_lock_take(&smi_stats_lock); /* what was published stays as it is, so that it adds up */
    s->peak = smi_peak_of(root);
    for (uint32_t t = 0; t < s->room.tags && t < s->n.tags; t++) {
        const smi_record *r = smi_record_find(root, (sagemem_tag)t);
        if (r == NULL) continue;
        s->tags[t].peak = SMI_LOAD(&r->peak);
        s->tags[t].peak_blocks = SMI_LOAD(&r->peak_blocks);
        s->tags[t].at_peak = smi_record_at_peak(root, (sagemem_tag)t);
    }
    smi_lock_give(&smi_stats_lock);
    smi_lock_give(&root->lock);
}

static int smi_snap_site_order(const smi_snap_site *a, const smi_snap_site *b) {
    if (a->owner != b->owner) return a->owner < b->owner ? -1 : 1;
    if (a->tag != b->tag) return a->tag < b->tag ? -1 : 1;
    int files = strcmp(a->file, b->file);
    return files != 0 ? files : a->line < b->line ? -1 : a->line > b->line;
}

/* The table becomes a list. Shell's sort, with the gaps of Ciura (2001) and then by 9/4: the C library's may allocate. */
static void smi_snap_sites_sort(sagemem_snapshot *s) {
    uint32_t n = 0, gap = 1;
    for (uint32_t i = 0; i < s->room.sites; i++)
        if (s->sites[i].file != NULL) s->sites[n++] = s->sites[i];
    s->n.sites = n;
    while (gap < n / 2) gap = gap * 9 / 4 + 1;
    for (; gap > 0; gap = gap == 1 ? 0 : gap * 4 / 9 > 0 ? gap * 4 / 9 : 1)
        for (uint32_t i = gap; i < n; i++) {
            smi_snap_site moved = s->sites[i];
            uint32_t at = i;
            for (; at >= gap && smi_snap_site_order(&s->sites[at - gap], &moved) > 0; at -= gap) s->sites[at] = s->sites[at - gap];
            s->sites[at] = moved;
        }
}

/* A name's part before the slash; 0 when there is none. */
static uint32_t smi_snap_group(const char *name) {
    const char *slash = name != NULL ? strchr(name, '/') : NULL;
    return slash != NULL ? (uint32_t)(slash - name) : 0;
}

/* Sums and names, from what was gathered. */
static void smi_snap_finish(sagemem_snapshot *s) {
    for (uint32_t i = s->n.owners; i-- > 0;) {
        smi_snap_owner *o = &s->owners[i];
        smi_snap_add(&o->all, &o->own);
        if (o->peak < o->all.bytes) o->peak = o->all.bytes;
        if (i == 0) break;
        smi_snap_owner *up = &s->owners[o->parent];
        smi_snap_add(&up->all, &o->all);
        up->overhead += o->overhead;
        up->mapped += o->mapped;
        up->huge_page_bytes += o->huge_page_bytes;
    }
    bool now = s->owners[0].all.bytes > s->peak; /* blocks have come since the peaks were looked at: this is the peak */
    if (now) s->peak = s->owners[0].all.bytes;
    s->owners[0].peak = s->peak;
    for (uint32_t t = 0; t < s->n.tags; t++) {
        smi_snap_tag *tag = &s->tags[t];
        if (tag->sum.total_blocks == 0) continue;
        if (now) tag->at_peak = tag->sum.bytes;
        if (tag->peak < tag->sum.bytes) tag->peak = tag->sum.bytes;
        if (tag->peak_blocks < tag->sum.blocks) tag->peak_blocks = tag->sum.blocks;
        tag->name = t == SAGEMEM_UNTAGGED ? "untagged" : SMI_LOAD_ACQUIRE(&smi_tag_names[t]);
        tag->group = t == SAGEMEM_UNTAGGED ? 0 : smi_snap_group(tag->name);
    }
    smi_snap_sites_sort(s);
    for (uint32_t i = 0; i < s->n.past; i++) {
        smi_snap_past *p = &s->past[i];
        p->ago_ns = smi_os_ticks_ns(s->taken - p->scope.began);
        p->duration_ns = smi_os_ticks_ns(p->scope.lasted);
        if (p->duration_ns > p->ago_ns) p->duration_ns = p->ago_ns;
    }
}

static bool smi_snap_fits(const sagemem_snapshot *s) {
    const smi_snap_room *n = &s->n, *room = &s->room;
    return n->tags <= room->tags && n->owners <= room->owners && n->cells <= room->cells && n->past <= room->past &&
           n->files <= room->files && n->sites <= room->sites;
}

/* What to try next: as much as there was, and what may come meanwhile. */
static smi_snap_room smi_snap_more(const sagemem_snapshot *s) {
    smi_snap_room room = s->n;
    room.owners += room.owners / 8 + 8;
    room.cells += room.cells / 8 + 32;
    room.past += SMI_PAST_SLOTS;
    room.files += room.files / 8 + 8;
    room.sites = s->room.sites;
    if (s->n.sites > s->room.sites) room.sites = room.sites > 0 ? 4 * room.sites : 64;
    return room;
}

static void smi_snap_drop(sagemem_snapshot *s) {
    s->magic = ~SMI_SNAP_MAGIC;
    if (s->on_desk) SMI_STORE_RELEASE(&smi_snap_desk_taken, 0u);
    else smi_meta_free(s, s->bytes);
}

/* Room: the desk for a report, if nobody writes on it, else of the library's own. NULL: the error is set. */
static sagemem_snapshot *smi_snap_place(const smi_snap_room *room, bool desk, const char *call) {
    size_t bytes = smi_snap_bytes(room);
    uint32_t free_desk = 0;
    bool on_desk = desk && bytes <= sizeof smi_snap_desk && SMI_LOAD(&smi_snap_desk_taken) == 0 &&
                   __atomic_compare_exchange_n(&smi_snap_desk_taken, &free_desk, 1u, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    void *at = smi_snap_desk;
    if (!on_desk && smi_os_fails()) {
        smi_fail_system(call, bytes);
        return NULL;
    }
    if (!on_desk && (at = smi_meta_take(bytes)) == NULL) return NULL;
    sagemem_snapshot *s = smi_snap_lay(at, room);
    s->on_desk = on_desk;
    return s;
}

/* All numbers of a heap and what is below it. NULL: the error is set. */
static sagemem_snapshot *smi_snap_make(smi_domain *root, bool desk, const char *call) {
    smi_snap_room room = {256, 32, 384, SMI_PAST_SLOTS, 32, 64}; /* fills the desk */
    uint64_t resident = smi_os_resident();
    bool is_process = root == &smi_process;
    smi_lock_take(&smi_registry_lock);
    if (is_process && smi_snap_usual.owners > 0 && !desk) room = smi_snap_usual;
    smi_lock_give(&smi_registry_lock);
    for (;;) {
        sagemem_snapshot *s = smi_snap_place(&room, desk, call);
        if (s == NULL) return NULL;
        s->is_process = is_process;
        s->resident = resident;
        smi_lock_take(&smi_registry_lock);
        s->taken_ns = smi_os_now_ns();
        smi_snap_heap(s, root, 0);
        s->taken = smi_os_ticks(); /* after whatever it tells of */
        smi_snap_peaks(s, root);
        s->library = is_process ? SMI_LOAD(&smi_meta_bytes) : 0;
        bool fits = smi_snap_fits(s);
        room = smi_snap_more(s);
        if (fits && is_process) smi_snap_usual = room;
        smi_lock_give(&smi_registry_lock);
        if (fits) {
            s->magic = SMI_SNAP_MAGIC;
            smi_snap_finish(s);
            return s;
        }
        smi_snap_drop(s);
    }
}

/* The group, then the tag, that had more at the peak comes first; what has no group comes last. */
static int smi_snap_tag_order(const sagemem_snapshot *s, uint16_t a, uint16_t b) {
    const smi_snap_tag *x = &s->tags[a], *y = &s->tags[b];
    if ((x->group == 0) != (y->group == 0)) return x->group == 0 ? 1 : -1;
    if (x->group != 0) {
        if (x->group_at_peak != y->group_at_peak) return x->group_at_peak > y->group_at_peak ? -1 : 1;
        int names = strncmp(x->name, y->name, x->group < y->group ? x->group : y->group);
        if (names != 0) return names;
        if (x->group != y->group) return x->group < y->group ? -1 : 1;
    }
    if (x->at_peak != y->at_peak) return x->at_peak > y->at_peak ? -1 : 1;
    return a < b ? -1 : 1;
}

static bool smi_snap_same_group(const smi_snap_tag *a, const smi_snap_tag *b) {
    return a->group == b->group && (a->group == 0 || memcmp(a->name, b->name, a->group) == 0);
}

static void smi_snap_order(sagemem_snapshot *s) {
    uint32_t gap = 1, n = s->ordered;
    while (gap < n / 2) gap = gap * 9 / 4 + 1;
    for (; gap > 0; gap = gap == 1 ? 0 : gap * 4 / 9 > 0 ? gap * 4 / 9 : 1)
        for (uint32_t i = gap; i < n; i++) {
            uint16_t moved = s->order[i];
            uint32_t at = i;
            for (; at >= gap && smi_snap_tag_order(s, s->order[at - gap], moved) > 0; at -= gap) s->order[at] = s->order[at - gap];
            s->order[at] = moved;
        }
}

/* Sorts the tags for reading, once: first by group, so that each group's sum is found, then by that. Two threads may want to
 * write one snapshot. */
static void smi_snap_sort(const sagemem_snapshot *snapshot) {
    sagemem_snapshot *s = (sagemem_snapshot *)(uintptr_t)snapshot;
    smi_lock_take(&smi_layers_lock);
    if (!s->sorted) {
        for (uint32_t t = 0; t < s->n.tags; t++)
            if (s->tags[t].sum.total_blocks > 0) s->order[s->ordered++] = (uint16_t)t;
        smi_snap_order(s);
        for (uint32_t i = 0, end; i < s->ordered; i = end) {
            uint64_t sum = 0;
            for (end = i; end < s->ordered && smi_snap_same_group(&s->tags[s->order[i]], &s->tags[s->order[end]]); end++)
                sum += s->tags[s->order[end]].at_peak;
            for (uint32_t k = i; k < end; k++) s->tags[s->order[k]].group_at_peak = sum;
        }
        smi_snap_order(s);
        s->sorted = true;
    }
    smi_lock_give(&smi_layers_lock);
}

/* The cell of a tag, or NULL. */
static const smi_snap_cell *smi_snap_find(const sagemem_snapshot *s, const smi_snap_owner *o, uint32_t tag) {
    uint32_t low = o->cell, high = o->cell + o->cells;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->cells[middle].tag < tag) low = middle + 1;
        else high = middle;
    }
    return low < o->cell + o->cells && s->cells[low].tag == tag ? &s->cells[low] : NULL;
}

/* The end of the owners that are the heap at `index` and its scopes. */
static uint32_t smi_snap_heap_end(const sagemem_snapshot *s, uint32_t index) {
    uint32_t end = index + 1;
    while (end < s->n.owners && s->owners[end].is_scope) end++;
    return end;
}

/* What a heap has of a tag, its scopes included. False: it never had any. */
static bool smi_snap_heap_tag(const sagemem_snapshot *s, uint32_t index, uint32_t tag, smi_sums *sum, uint64_t *peak) {
    memset(sum, 0, sizeof *sum);
    *peak = 0;
    for (uint32_t i = index, end = smi_snap_heap_end(s, index); i < end; i++) {
        const smi_snap_cell *c = smi_snap_find(s, &s->owners[i], tag);
        if (c == NULL) continue;
        smi_snap_add(sum, &c->sum);
        if (c->peak > *peak) *peak = c->peak;
    }
    if (*peak < sum->bytes) *peak = sum->bytes;
    return sum->total_blocks > 0;
}

/* What a heap holds that those below it do not. */
static uint64_t smi_snap_held_own(const sagemem_snapshot *s, uint32_t index) {
    uint64_t below = 0;
    for (uint32_t i = index + 1; i < s->n.owners; i++)
        if (!s->owners[i].is_scope && s->owners[i].parent == index) below += s->owners[i].held;
    return smi_minus(s->owners[index].held, below);
}

/* Where memory is: parts that add up to at least what is resident. */
typedef struct smi_snap_where {
    uint64_t used, unused, library, mapped, rest;
} smi_snap_where;
static smi_snap_where smi_snap_parts(const sagemem_snapshot *s) {
    const smi_snap_owner *o = &s->owners[0];
    smi_snap_where w;
    w.used = o->all.bytes;
    w.library = s->library;
    w.unused = smi_minus(o->held, w.used + w.library);
    w.mapped = o->mapped;
    w.rest = smi_minus(s->resident, o->held + o->mapped);
    return w;
}

/* -- Writing: through a small buffer, without a lock, without a float (whose point the locale may change). ------------ */

typedef struct smi_report_out {
    const sagemem_sink *sink;
    uint64_t offset;
    sagemem_status status;
    size_t used;
    char buffer[4096];
} smi_report_out;

static void smi_report_begin(smi_report_out *out, const sagemem_sink *sink) {
    out->sink = sink;
    out->offset = 0;
    out->used = 0;
    out->status = SAGEMEM_OK;
}

static void smi_report_flush(smi_report_out *out) {
    if (out->used > 0 && out->status == SAGEMEM_OK)
        out->status = out->sink->write_fn(out->sink->ctx, out->buffer, out->used, out->offset);
    out->offset += out->used;
    out->used = 0;
}

/* The sink is closed in any case; the first failure counts. */
static sagemem_status smi_report_end(smi_report_out *out) {
    smi_report_flush(out);
    if (out->sink->close_fn == NULL) return out->status;
    sagemem_status closed = out->sink->close_fn(out->sink->ctx);
    return out->status != SAGEMEM_OK ? out->status : closed;
}

static void smi_report_raw(smi_report_out *out, const char *text, size_t size) {
    if (size > sizeof out->buffer - out->used) smi_report_flush(out);
    memcpy(out->buffer + out->used, text, size);
    out->used += size;
}

/* At most 1023 bytes. */
SAGEMEM_PRINTF(2, 3)
static void smi_report_put(smi_report_out *out, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    smi_report_raw(out, line, n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/* How names appear: each form has bytes of its own that would end them. Those from 0x80 on are passed through: names are
 * UTF-8, or the program's affair. */
typedef enum smi_report_quoting { SMI_PLAIN, SMI_JSON, SMI_CSV, SMI_LABEL, SMI_FRAME, SMI_XML } smi_report_quoting;

static const char *smi_report_quoted(unsigned char c, smi_report_quoting how, char *text, size_t size) {
    const char *as = NULL;
    if (how == SMI_JSON || how == SMI_LABEL) {
        as = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : NULL;
        if (as == NULL && how == SMI_JSON && c < 0x20) smi_text(text, size, "\\u%04x", c);
    } else if (how == SMI_CSV) {
        as = c == '"' ? "\"\"" : NULL;
    } else if (how == SMI_XML) {
        as = c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : NULL;
        if (c < 0x20 || c == 0x7F) as = "?"; /* no XML has these */
    } else if (c < 0x20 || c == 0x7F || (how == SMI_FRAME && c == ';')) {
        as = "?";
    }
    return as != NULL ? as : text;
}

/* At most `length` bytes of a name. */
static void smi_report_part(smi_report_out *out, const char *name, size_t length, smi_report_quoting how) {
    for (size_t i = 0; i < length && name[i] != '\0'; i++) {
        char text[8] = {name[i], '\0'};
        const char *as = smi_report_quoted((unsigned char)name[i], how, text, sizeof text);
        smi_report_raw(out, as, strlen(as));
    }
}
static void smi_report_name(smi_report_out *out, const char *name, smi_report_quoting how) {
    bool quotes = how == SMI_JSON || how == SMI_LABEL || (how == SMI_CSV && strpbrk(name, ",\"\r\n") != NULL);
    if (quotes) smi_report_raw(out, "\"", 1);
    smi_report_part(out, name, strlen(name), how);
    if (quotes) smi_report_raw(out, "\"", 1);
}

/* A tag's name, or its number. */
enum { SMI_TAG_TEXT = 16 };
static const char *smi_report_tag(const char *name, uint32_t tag, char text[SMI_TAG_TEXT]) {
    if (name != NULL) return name;
    smi_text(text, SMI_TAG_TEXT, "tag %u", tag);
    return text;
}

/* "heap" or "forest 12" */
enum { SMI_OWNER_TEXT = SMI_NAME_MAX + 24 };
static const char *smi_report_owner(const smi_snap_owner *o, char text[SMI_OWNER_TEXT]) {
    if (!o->is_scope) return o->name;
    smi_text(text, SMI_OWNER_TEXT, "%s %llu", o->name, (unsigned long long)o->id);
    return text;
}

/* "1.25 MiB", at most 10 characters; three digits at least. */
enum { SMI_BYTES_TEXT = 16 };
static const char *smi_report_bytes(char text[SMI_BYTES_TEXT], uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;
    for (uint64_t rest = bytes; rest >= 1024; rest >>= 10) unit++;
    if (unit == 0) {
        smi_text(text, SMI_BYTES_TEXT, "%u B", (unsigned)bytes);
        return text;
    }
    int drop = unit > 2 ? 10 * (unit - 2) : 0; /* what is left has 30 bits at most */
    uint64_t value = bytes >> drop, one = (uint64_t)1 << (10 * unit - drop);
    unsigned hundredths = (unsigned)((value * 100 + one / 2) / one), tenths = (unsigned)((value * 10 + one / 2) / one);
    if (hundredths < 1000) smi_text(text, SMI_BYTES_TEXT, "%u.%02u %s", hundredths / 100, hundredths % 100, units[unit]);
    else if (tenths < 1000) smi_text(text, SMI_BYTES_TEXT, "%u.%u %s", tenths / 10, tenths % 10, units[unit]);
    else smi_text(text, SMI_BYTES_TEXT, "%u %s", (unsigned)((value + one / 2) / one), units[unit]);
    return text;
}

/* part / whole in thousandths; 0 of 0 is 0. */
static unsigned smi_report_share(uint64_t part, uint64_t whole) {
    while (whole > UINT64_MAX / 2048) {
        whole /= 2;
        part /= 2;
    }
    if (part > whole) part = whole;
    return whole > 0 ? (unsigned)((part * 1000 + whole / 2) / whole) : 0;
}

/* "1.25 s", "12.3 ms" */
static const char *smi_report_time(char text[SMI_BYTES_TEXT], uint64_t ns) {
    if (ns < 1000000) smi_text(text, SMI_BYTES_TEXT, "%u.%u us", (unsigned)(ns / 1000), (unsigned)(ns / 100 % 10));
    else if (ns < 1000000000) smi_text(text, SMI_BYTES_TEXT, "%u.%u ms", (unsigned)(ns / 1000000), (unsigned)(ns / 100000 % 10));
    else smi_text(text, SMI_BYTES_TEXT, "%llu.%u s", (unsigned long long)(ns / 1000000000), (unsigned)(ns / 100000000 % 10));
    return text;
}

/* -- Text -------------------------------------------------------------------------------------------------------- */

enum { SMI_NAME_COLUMN = 30, SMI_BAR = 20, SMI_TEXT_ROWS = 10 };

/* A name, cut or filled to the width of its column; bytes, not characters. */
static void smi_report_column(smi_report_out *out, int indent, const char *name, int width) {
    char plain[SMI_OWNER_TEXT + 8];
    size_t n = 0;
    for (; name[n] != '\0' && n + 1 < sizeof plain && n < 48; n++)
        plain[n] = (unsigned char)name[n] < 0x20 || name[n] == 0x7F ? '?' : name[n];
    plain[n] = '\0';
    smi_report_put(out, "%*s%-*s", indent, "", width - indent > 0 ? width - indent : 1, plain);
}

static void smi_report_bar(smi_report_out *out, unsigned thousandths) {
    static const char bar[] = "####################";
    unsigned n = (thousandths * SMI_BAR + 500) / 1000;
    smi_report_put(out, n > 0 ? "  %.*s\n" : "%.*s\n", (int)n, bar);
}

static void smi_report_where(smi_report_out *out, const char *what, uint64_t bytes, uint64_t whole) {
    char text[SMI_BYTES_TEXT];
    unsigned share = smi_report_share(bytes, whole);
    smi_report_column(out, 2, what, SMI_NAME_COLUMN + 2);
    smi_report_put(out, " %10s", smi_report_bytes(text, bytes));
    smi_report_bar(out, share);
}

/* Of a process: ours beside what the system counts. Mapped files, and pages taken but not touched, need not be resident. */
static void smi_report_text_where(smi_report_out *out, const sagemem_snapshot *s) {
    smi_snap_where w = smi_snap_parts(s);
    uint64_t all = w.used + w.unused + w.library + w.mapped + w.rest;
    smi_report_put(out, "\n  %-30s %10s\n", "where", "bytes");
    smi_report_where(out, "ours, in use", w.used, all);
    smi_report_where(out, "ours, held but unused", w.unused, all);
    smi_report_where(out, "the library's own", w.library, all);
    smi_report_where(out, "mapped files", w.mapped, all);
    smi_report_where(out, "rest of the process", w.rest, all);
    smi_report_where(out, "resident", s->resident, all);
}

typedef struct smi_report_total {
    uint64_t used, peak, at_peak, blocks;
} smi_report_total;

/* peak 0: left out, since peaks do not add up. */
static void smi_report_row(smi_report_out *out, const char *name, const smi_report_total *r, uint64_t whole) {
    char used[SMI_BYTES_TEXT], peak[SMI_BYTES_TEXT] = "", made[SMI_BYTES_TEXT];
    unsigned share = smi_report_share(r->at_peak, whole);
    if (r->peak != UINT64_MAX) smi_report_bytes(peak, r->peak);
    smi_report_column(out, 2, name, SMI_NAME_COLUMN + 2);
    smi_report_put(out, " %10s %10s %10s %3u.%u%% %12llu", smi_report_bytes(used, r->used), peak,
                   smi_report_bytes(made, r->at_peak), share / 10, share % 10, (unsigned long long)r->blocks);
    smi_report_bar(out, share);
}

static smi_report_total smi_report_total_of(const smi_snap_tag *t) {
    smi_report_total r = {t->sum.bytes, t->peak, t->at_peak, t->sum.total_blocks};
    return r;
}

/* The tags of one group, from place `i` of the order on, and their sum when there are several; returns the next place. */
static uint32_t smi_report_text_group(smi_report_out *out, const sagemem_snapshot *s, uint32_t i) {
    const smi_snap_tag *first = &s->tags[s->order[i]];
    smi_report_total sum = {0, UINT64_MAX, 0, 0};
    uint32_t begin = i;
    if (first->group > 0) {
        smi_report_part(out, first->name, first->group, SMI_PLAIN);
        smi_report_raw(out, "\n", 1);
    } else if (i > 0) {
        smi_report_put(out, "(no group)\n");
    }
    for (; i < s->ordered && smi_snap_same_group(first, &s->tags[s->order[i]]); i++) {
        const smi_snap_tag *t = &s->tags[s->order[i]];
        char number[SMI_TAG_TEXT];
        smi_report_total r = smi_report_total_of(t);
        smi_report_row(out, smi_report_tag(t->name, s->order[i], number) + (t->group > 0 ? t->group + 1 : 0), &r, s->peak);
        sum.used += r.used;
        sum.at_peak += r.at_peak;
        sum.blocks += r.blocks;
    }
    if (i - begin > 1 && first->group > 0) smi_report_row(out, "subtotal", &sum, s->peak);
    return i;
}

/* Untagged blocks that are left, by where they were allocated: the largest first. */
static void smi_report_text_untagged(smi_report_out *out, const sagemem_snapshot *s) {
    uint64_t above = UINT64_MAX;
    uint32_t last = 0;
    if (s->n.tags == 0 || s->tags[SAGEMEM_UNTAGGED].sum.total_blocks == 0) return;
    smi_report_put(out, "  (untagged blocks have no purpose yet: give their allocations a tag)\n");
    for (int row = 0; row < SMI_TEXT_ROWS; row++) {
        const smi_snap_site *best = NULL;
        for (uint32_t i = 0; i < s->n.sites; i++) {
            const smi_snap_site *site = &s->sites[i];
            bool told = site->bytes > above || (site->bytes == above && i <= last);
            if (site->tag != SAGEMEM_UNTAGGED || told || (best != NULL && site->bytes <= best->bytes)) continue;
            best = site;
        }
        if (best == NULL) break;
        char bytes[SMI_BYTES_TEXT];
        above = best->bytes;
        last = (uint32_t)(best - s->sites);
        smi_report_put(out, "    %10s in %llu blocks from %s:%d\n", smi_report_bytes(bytes, best->bytes),
                       (unsigned long long)best->blocks, best->file, best->line);
    }
}

static void smi_report_text_tags(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_put(out, "\n  %-30s %10s %10s %10s %6s %12s\n", "tag", "used", "peak", "at peak", "share", "blocks ever");
    for (uint32_t i = 0; i < s->ordered;) i = smi_report_text_group(out, s, i);
    smi_report_total total = {s->owners[0].all.bytes, s->peak, 0, s->owners[0].all.total_blocks};
    for (uint32_t i = 0; i < s->ordered; i++) total.at_peak += s->tags[s->order[i]].at_peak;
    smi_report_row(out, "total", &total, s->peak);
    smi_report_text_untagged(out, s);
}

static void smi_report_text_heaps(smi_report_out *out, const sagemem_snapshot *s) {
    int depth[SMI_BAR] = {0}; /* of the heaps around the present one; deeper ones are not indented further */
    uint32_t around[SMI_BAR] = {0};
    int deep = 0;
    bool said = false;
    for (uint32_t i = 1; i < s->n.owners; i++) {
        const smi_snap_owner *o = &s->owners[i];
        if (o->is_scope) continue;
        if (!said) smi_report_put(out, "\n  %-30s %10s %10s %10s\n", "heap", "used", "peak", "held");
        said = true;
        while (deep > 0 && around[deep] != o->parent) deep--;
        char used[SMI_BYTES_TEXT], peak[SMI_BYTES_TEXT], held[SMI_BYTES_TEXT];
        smi_report_column(out, 2 + 2 * depth[deep], o->name, SMI_NAME_COLUMN + 2);
        smi_report_put(out, " %10s %10s %10s\n", smi_report_bytes(used, o->all.bytes), smi_report_bytes(peak, o->peak),
                       smi_report_bytes(held, o->held));
        if (deep + 1 < SMI_BAR) {
            depth[deep + 1] = depth[deep] + 1;
            around[++deep] = i;
        }
    }
}

/* The worst of the scopes that ended, `after` the last one told; NULL when there are no more. */
static const smi_snap_past *smi_snap_next_worst(const sagemem_snapshot *s, const smi_snap_past *after) {
    const smi_snap_past *worst = NULL;
    for (uint32_t i = 0; i < s->n.past; i++) {
        const smi_snap_past *p = &s->past[i];
        uint64_t peak = p->scope.used_peak;
        bool told = after != NULL && (peak > after->scope.used_peak || (peak == after->scope.used_peak && p <= after));
        if (!told && (worst == NULL || peak > worst->scope.used_peak)) worst = p;
    }
    return worst;
}

/* The most that one scope, open or ended, ever used. */
static uint64_t smi_snap_worst_peak(const sagemem_snapshot *s) {
    const smi_snap_past *past = smi_snap_next_worst(s, NULL);
    uint64_t worst = past != NULL ? past->scope.used_peak : 0;
    for (uint32_t i = 0; i < s->n.owners; i++)
        if (s->owners[i].is_scope && s->owners[i].peak > worst) worst = s->owners[i].peak;
    return worst;
}

static void smi_report_text_scope(smi_report_out *out, const smi_snap_owner *o, const char *used, uint64_t ns, uint64_t *worst) {
    char name[SMI_OWNER_TEXT], peak[SMI_BYTES_TEXT], held[SMI_BYTES_TEXT], time[SMI_BYTES_TEXT] = "";
    if (ns > 0) smi_report_time(time, ns);
    smi_report_column(out, 2, smi_report_owner(o, name), SMI_NAME_COLUMN + 2);
    smi_report_put(out, " %10s %10s %10s %10s%s\n", used, smi_report_bytes(peak, o->peak), smi_report_bytes(held, o->held_peak),
                   time, o->peak == *worst && o->peak > 0 ? "  <- worst" : "");
    if (o->peak == *worst) *worst = UINT64_MAX; /* once is enough */
}

/* Those that are open, and the worst that have ended. */
static void smi_report_text_scopes(smi_report_out *out, const sagemem_snapshot *s) {
    uint64_t worst = smi_snap_worst_peak(s), ended = 0;
    bool open = s->owners[s->n.owners - 1].is_scope || s->n.past > 0;
    for (uint32_t i = 0; i < s->n.owners; i++) open |= s->owners[i].is_scope;
    if (!open) return;
    smi_report_put(out, "\n  %-30s %10s %10s %10s %10s\n", "scope", "used", "peak", "held", "took");
    for (uint32_t i = 0; i < s->n.owners; i++) {
        char used[SMI_BYTES_TEXT];
        if (s->owners[i].is_scope)
            smi_report_text_scope(out, &s->owners[i], smi_report_bytes(used, s->owners[i].all.bytes), 0, &worst);
    }
    const smi_snap_past *p = NULL;
    for (int row = 0; row < SMI_TEXT_ROWS / 2 && (p = smi_snap_next_worst(s, p)) != NULL; row++) {
        smi_snap_owner o;
        memset(&o, 0, sizeof o);
        o.is_scope = true;
        o.name = p->scope.kind;
        o.id = p->scope.id;
        o.peak = p->scope.used_peak;
        o.held_peak = p->scope.held_peak;
        smi_report_text_scope(out, &o, "ended", p->duration_ns, &worst);
    }
    for (uint32_t i = 0; i < s->n.past; i++) ended += s->past[i].scope.count;
    if (ended > SMI_TEXT_ROWS / 2) smi_report_put(out, "  (of %llu that have ended)\n", (unsigned long long)ended);
}

static void smi_report_text_files(smi_report_out *out, const sagemem_snapshot *s) {
    if (s->n.files > 0) smi_report_put(out, "\n  %-30s %10s %10s\n", "open file", "mapped", "buffered");
    for (uint32_t i = 0; i < s->n.files; i++) {
        const smi_snap_file *f = &s->files[i];
        char mapped[SMI_BYTES_TEXT], buffered[SMI_BYTES_TEXT];
        smi_report_column(out, 2, f->kind, SMI_NAME_COLUMN + 2);
        smi_report_put(out, " %10s %10s  ", smi_report_bytes(mapped, f->mapped), smi_report_bytes(buffered, f->buffered));
        smi_report_part(out, f->name, sizeof f->name, SMI_PLAIN);
        smi_report_raw(out, "\n", 1);
    }
}

static uint32_t smi_snap_scopes(const sagemem_snapshot *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n.owners; i++) n += s->owners[i].is_scope;
    return n;
}

static void smi_report_text(smi_report_out *out, const sagemem_snapshot *s) {
    char a[SMI_BYTES_TEXT], b[SMI_BYTES_TEXT], c[SMI_BYTES_TEXT], d[SMI_BYTES_TEXT];
    const smi_snap_owner *o = &s->owners[0];
    smi_report_put(out, "sagemem: %s '", s->is_process ? "process" : "heap");
    smi_report_part(out, o->name, SIZE_MAX, SMI_PLAIN);
    smi_report_put(out, "'\n  used %s (peak %s), held %s (peak %s)", smi_report_bytes(a, o->all.bytes),
                   smi_report_bytes(b, s->peak), smi_report_bytes(c, o->held), smi_report_bytes(d, o->held_peak));
    if (o->limit != 0) smi_report_put(out, ", limit %s", smi_report_bytes(a, o->limit));
    if (s->is_process) smi_report_put(out, ", resident %s", smi_report_bytes(a, s->resident));
    smi_report_put(out, "\n  of held: library and headers %s, reserved %s; blocks %llu now, %llu ever; scopes open %u\n",
                   smi_report_bytes(a, o->overhead + s->library), smi_report_bytes(b, o->reserved),
                   (unsigned long long)o->all.blocks, (unsigned long long)o->all.total_blocks, smi_snap_scopes(s));
    if (s->is_process) smi_report_text_where(out, s);
    smi_report_text_tags(out, s);
    smi_report_text_heaps(out, s);
    smi_report_text_scopes(out, s);
    smi_report_text_files(out, s);
}

static void smi_report_brief(smi_report_out *out, const sagemem_snapshot *s) {
    char a[SMI_BYTES_TEXT], b[SMI_BYTES_TEXT], c[SMI_BYTES_TEXT], number[SMI_TAG_TEXT];
    const smi_snap_owner *o = &s->owners[0];
    uint32_t most = s->n.tags;
    for (uint32_t t = 0; t < s->n.tags; t++)
        if (s->tags[t].sum.total_blocks > 0 && (most == s->n.tags || s->tags[t].at_peak > s->tags[most].at_peak)) most = t;
    smi_report_put(out, "sagemem: ");
    smi_report_part(out, o->name, SIZE_MAX, SMI_PLAIN);
    smi_report_put(out, " used %s in %llu blocks, peak %s, held %s", smi_report_bytes(a, o->all.bytes),
                   (unsigned long long)o->all.blocks, smi_report_bytes(b, s->peak), smi_report_bytes(c, o->held));
    if (most < s->n.tags) {
        smi_report_put(out, "; most at peak: ");
        smi_report_part(out, smi_report_tag(s->tags[most].name, most, number), SIZE_MAX, SMI_PLAIN);
        smi_report_put(out, " %s", smi_report_bytes(a, s->tags[most].at_peak));
    }
    smi_report_raw(out, "\n", 1);
}

/* -- JSON: tests/data/report-1.schema.json says what is in it. ------------------------------------------------------ */

static void smi_report_number(smi_report_out *out, const char *key, uint64_t value) {
    smi_report_put(out, ", \"%s\": %llu", key, (unsigned long long)value);
}
/* The first member of an object, a name. */
static void smi_report_first(smi_report_out *out, const char *key, const char *name, bool *first) {
    smi_report_put(out, "%s\n    {\"%s\": ", *first ? "" : ",", key);
    smi_report_name(out, name, SMI_JSON);
    *first = false;
}
static void smi_report_member(smi_report_out *out, const char *key, const char *name) {
    smi_report_put(out, ", \"%s\": ", key);
    smi_report_name(out, name, SMI_JSON);
}
static void smi_report_sums(smi_report_out *out, const smi_sums *s) {
    smi_report_number(out, "used", s->bytes);
    smi_report_number(out, "blocks", s->blocks);
    smi_report_number(out, "total_blocks", s->total_blocks);
    smi_report_number(out, "total_bytes", s->total_bytes);
}
/* Heap, and scope if it is one. */
static void smi_report_belongs(smi_report_out *out, const sagemem_snapshot *s, const smi_snap_owner *o) {
    smi_report_member(out, "heap", s->owners[o->heap].name);
    if (!o->is_scope) return;
    smi_report_member(out, "scope", o->name);
    smi_report_number(out, "id", o->id);
}

static void smi_report_json_total(smi_report_out *out, const sagemem_snapshot *s) {
    const smi_snap_owner *o = &s->owners[0];
    smi_snap_where w = smi_snap_parts(s);
    smi_report_put(out, "{\"schema\": \"sagemem-report-1\",\n \"%s\": {\"name\": ", s->is_process ? "process" : "heap");
    smi_report_name(out, o->name, SMI_JSON);
    smi_report_sums(out, &o->all);
    smi_report_number(out, "peak", s->peak);
    smi_report_number(out, "held", o->held);
    smi_report_number(out, "held_peak", o->held_peak);
    smi_report_number(out, "unused", w.unused);
    smi_report_number(out, "library", w.library);
    smi_report_number(out, "rest", s->is_process ? w.rest : 0);
    smi_report_number(out, "resident", s->resident);
    smi_report_number(out, "limit", o->limit);
    smi_report_number(out, "overhead", o->overhead + s->library);
    smi_report_number(out, "mapped", o->mapped);
    smi_report_number(out, "huge_page_bytes", o->huge_page_bytes);
    smi_report_number(out, "reserved", o->reserved);
    smi_report_put(out, "}");
}

static void smi_report_json_tags(smi_report_out *out, const sagemem_snapshot *s) {
    bool first = true;
    smi_report_put(out, ",\n \"tags\": [");
    for (uint32_t t = 0; t < s->n.tags; t++) {
        char number[SMI_TAG_TEXT];
        const smi_snap_tag *tag = &s->tags[t];
        if (tag->sum.total_blocks == 0) continue;
        smi_report_first(out, "tag", smi_report_tag(tag->name, t, number), &first);
        smi_report_sums(out, &tag->sum);
        smi_report_number(out, "peak", tag->peak);
        smi_report_number(out, "peak_blocks", tag->peak_blocks);
        smi_report_number(out, "at_peak", tag->at_peak);
        smi_report_put(out, "}");
    }
}

/* Heaps, or open scopes: each with what it encloses. */
static void smi_report_json_owners(smi_report_out *out, const sagemem_snapshot *s, bool scopes) {
    bool first = true;
    smi_report_put(out, "],\n \"%s\": [", scopes ? "scopes" : "heaps");
    for (uint32_t i = scopes ? 0 : 1; i < s->n.owners; i++) {
        const smi_snap_owner *o = &s->owners[i];
        if (o->is_scope != scopes) continue;
        smi_report_first(out, scopes ? "scope" : "heap", o->name, &first);
        if (scopes) smi_report_number(out, "id", o->id);
        smi_report_member(out, scopes ? "heap" : "parent", s->owners[scopes ? o->heap : o->parent].name);
        smi_report_sums(out, &o->all);
        smi_report_number(out, "peak", o->peak);
        smi_report_number(out, "held", o->held);
        smi_report_number(out, "held_peak", o->held_peak);
        smi_report_number(out, "limit", o->limit);
        if (!scopes) smi_report_number(out, "mapped", o->mapped);
        smi_report_put(out, "}");
    }
}

static void smi_report_json_ended(smi_report_out *out, const sagemem_snapshot *s) {
    bool first = true;
    smi_report_put(out, "],\n \"ended\": [");
    for (uint32_t i = 0; i < s->n.past; i++) {
        const smi_past_scope *p = &s->past[i].scope;
        smi_report_first(out, "scope", p->kind, &first);
        smi_report_number(out, "id", p->id);
        smi_report_member(out, "heap", s->owners[s->past[i].heap].name);
        smi_report_number(out, "peak", p->used_peak);
        smi_report_number(out, "held_peak", p->held_peak);
        smi_report_number(out, "ago_ns", s->past[i].ago_ns);
        smi_report_number(out, "duration_ns", s->past[i].duration_ns);
        smi_report_number(out, "worst_of", p->count);
        smi_report_put(out, "}");
    }
}

static void smi_report_json_rows(smi_report_out *out, const sagemem_snapshot *s) {
    bool first = true;
    smi_report_put(out, "],\n \"rows\": [");
    for (uint32_t i = 0; i < s->n.cells; i++) {
        char number[SMI_TAG_TEXT];
        const smi_snap_cell *c = &s->cells[i];
        smi_report_first(out, "tag", smi_report_tag(s->tags[c->tag].name, c->tag, number), &first);
        smi_report_belongs(out, s, &s->owners[c->owner]);
        smi_report_sums(out, &c->sum);
        smi_report_number(out, "peak", c->peak);
        smi_report_put(out, "}");
    }
}

static void smi_report_json_files(smi_report_out *out, const sagemem_snapshot *s) {
    bool first = true;
    smi_report_put(out, "],\n \"files\": [");
    for (uint32_t i = 0; i < s->n.files; i++) {
        const smi_snap_file *f = &s->files[i];
        smi_report_first(out, "file", f->name, &first);
        smi_report_member(out, "kind", f->kind);
        smi_report_belongs(out, s, &s->owners[f->owner]);
        smi_report_number(out, "mapped", f->mapped);
        smi_report_number(out, "buffered", f->buffered);
        smi_report_put(out, "}");
    }
}

static void smi_report_json_sites(smi_report_out *out, const sagemem_snapshot *s) {
    bool first = true;
    smi_report_put(out, "],\n \"sites\": [");
    for (uint32_t i = 0; i < s->n.sites; i++) {
        char number[SMI_TAG_TEXT];
        const smi_snap_site *site = &s->sites[i];
        smi_report_first(out, "site", site->file, &first);
        smi_report_number(out, "line", (uint64_t)site->line);
        smi_report_member(out, "tag", smi_report_tag(s->tags[site->tag].name, site->tag, number));
        smi_report_belongs(out, s, &s->owners[site->owner]);
        smi_report_number(out, "used", site->bytes);
        smi_report_number(out, "blocks", site->blocks);
        smi_report_put(out, "}");
    }
}

static void smi_report_json(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_json_total(out, s);
    smi_report_json_tags(out, s);
    smi_report_json_owners(out, s, false);
    smi_report_json_owners(out, s, true);
    smi_report_json_ended(out, s);
    smi_report_json_rows(out, s);
    smi_report_json_files(out, s);
    smi_report_json_sites(out, s);
    smi_report_put(out, "]}\n");
}

/* -- CSV, Prometheus, folded stacks ------------------------------------------------------------------------------- */

static void smi_report_csv(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_put(out, "heap,tag,used,peak,blocks,total_blocks\n");
    for (uint32_t i = 0; i < s->n.owners; i = smi_snap_heap_end(s, i))
        for (uint32_t t = 0; t < s->n.tags; t++) {
            char number[SMI_TAG_TEXT];
            smi_sums sum;
            uint64_t peak;
            if (!smi_snap_heap_tag(s, i, t, &sum, &peak)) continue;
            smi_report_name(out, s->owners[i].name, SMI_CSV);
            smi_report_raw(out, ",", 1);
            smi_report_name(out, smi_report_tag(s->tags[t].name, t, number), SMI_CSV);
            smi_report_put(out, ",%llu,%llu,%llu,%llu\n", (unsigned long long)sum.bytes, (unsigned long long)peak,
                           (unsigned long long)sum.blocks, (unsigned long long)sum.total_blocks);
        }
}

static void smi_report_metric(smi_report_out *out, const char *name, const char *type, const char *help) {
    smi_report_put(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}
static void smi_report_gauge(smi_report_out *out, const char *name, const char *help, uint64_t value) {
    smi_report_metric(out, name, "gauge", help);
    smi_report_put(out, "%s %llu\n", name, (unsigned long long)value);
}

/* A series may come once only: heaps of one name are one. True for the first of them. */
static bool smi_report_first_named(const sagemem_snapshot *s, uint32_t heap) {
    for (uint32_t i = 0; i < heap; i++)
        if (!s->owners[i].is_scope && s->owners[i].name == s->owners[heap].name) return false;
    return !s->owners[heap].is_scope;
}

typedef enum smi_report_series { SMI_USED, SMI_BLOCKS, SMI_TOTAL_BYTES, SMI_TOTAL_BLOCKS } smi_report_series;

static void smi_report_per_tag(smi_report_out *out, const sagemem_snapshot *s, const char *metric, smi_report_series which) {
    for (uint32_t i = 0; i < s->n.owners; i++) {
        for (uint32_t t = 0; smi_report_first_named(s, i) && t < s->n.tags; t++) {
            smi_sums sum, all = {0, 0, 0, 0};
            uint64_t peak;
            for (uint32_t k = i; k < s->n.owners; k++)
                if (!s->owners[k].is_scope && s->owners[k].name == s->owners[i].name && smi_snap_heap_tag(s, k, t, &sum, &peak))
                    smi_snap_add(&all, &sum);
            if (all.total_blocks == 0) continue;
            char number[SMI_TAG_TEXT];
            const uint64_t values[] = {all.bytes, all.blocks, all.total_bytes, all.total_blocks};
            smi_report_put(out, "%s{heap=", metric);
            smi_report_name(out, s->owners[i].name, SMI_LABEL);
            smi_report_put(out, ",tag=");
            smi_report_name(out, smi_report_tag(s->tags[t].name, t, number), SMI_LABEL);
            smi_report_put(out, "} %llu\n", (unsigned long long)values[which]);
        }
    }
}

static void smi_report_per_heap(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_metric(out, "sagemem_heap_held_bytes", "gauge", "Bytes of pages that a heap holds, those below it left out.");
    for (uint32_t i = 0; i < s->n.owners; i++) {
        uint64_t held = 0;
        if (!smi_report_first_named(s, i)) continue;
        for (uint32_t k = i; k < s->n.owners; k++)
            if (!s->owners[k].is_scope && s->owners[k].name == s->owners[i].name) held += smi_snap_held_own(s, k);
        smi_report_put(out, "sagemem_heap_held_bytes{heap=");
        smi_report_name(out, s->owners[i].name, SMI_LABEL);
        smi_report_put(out, "} %llu\n", (unsigned long long)held);
    }
}

static void smi_report_tag_peaks(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_metric(out, "sagemem_tag_peak_bytes", "gauge", "Most bytes of a tag in use at once.");
    for (uint32_t t = 0; t < s->n.tags; t++) {
        char number[SMI_TAG_TEXT];
        if (s->tags[t].sum.total_blocks == 0) continue;
        smi_report_put(out, "sagemem_tag_peak_bytes{tag=");
        smi_report_name(out, smi_report_tag(s->tags[t].name, t, number), SMI_LABEL);
        smi_report_put(out, "} %llu\n", (unsigned long long)s->tags[t].peak);
    }
}

static void smi_report_prometheus(smi_report_out *out, const sagemem_snapshot *s) {
    const smi_snap_owner *o = &s->owners[0];
    smi_report_metric(out, "sagemem_used_bytes", "gauge", "Bytes of blocks in use.");
    smi_report_per_tag(out, s, "sagemem_used_bytes", SMI_USED);
    smi_report_metric(out, "sagemem_blocks", "gauge", "Blocks in use.");
    smi_report_per_tag(out, s, "sagemem_blocks", SMI_BLOCKS);
    smi_report_metric(out, "sagemem_allocated_bytes_total", "counter", "Bytes ever allocated.");
    smi_report_per_tag(out, s, "sagemem_allocated_bytes_total", SMI_TOTAL_BYTES);
    smi_report_metric(out, "sagemem_allocated_blocks_total", "counter", "Blocks ever allocated.");
    smi_report_per_tag(out, s, "sagemem_allocated_blocks_total", SMI_TOTAL_BLOCKS);
    smi_report_tag_peaks(out, s);
    smi_report_per_heap(out, s);
    smi_report_gauge(out, "sagemem_peak_bytes", "Most bytes in use at once.", s->peak);
    smi_report_gauge(out, "sagemem_held_bytes", "Bytes of pages taken from the system.", o->held);
    smi_report_gauge(out, "sagemem_held_peak_bytes", "Most bytes of pages at once.", o->held_peak);
    smi_report_gauge(out, "sagemem_limit_bytes", "Limit on the bytes held; 0: none.", o->limit);
    smi_report_gauge(out, "sagemem_library_bytes", "Bytes held for the library's own structures.", s->library);
    smi_report_gauge(out, "sagemem_mapped_bytes", "Bytes of mapped files.", o->mapped);
    smi_report_gauge(out, "sagemem_resident_bytes", "Resident bytes of the process, by the system.", s->resident);
    smi_report_gauge(out, "sagemem_scopes", "Scopes that are open.", smi_snap_scopes(s));
}

/* group;tag;owner */
static void smi_report_stack(smi_report_out *out, const char *tag, const smi_snap_owner *o) {
    char owner[SMI_OWNER_TEXT];
    uint32_t group = smi_snap_group(tag);
    if (group > 0) smi_report_part(out, tag, group, SMI_FRAME);
    else smi_report_put(out, "(no group)");
    smi_report_raw(out, ";", 1);
    smi_report_part(out, tag + (group > 0 ? group + 1 : 0), SIZE_MAX, SMI_FRAME);
    smi_report_raw(out, ";", 1);
    smi_report_part(out, smi_report_owner(o, owner), SIZE_MAX, SMI_FRAME);
}

static void smi_report_folded(smi_report_out *out, const sagemem_snapshot *s) {
    for (uint32_t i = 0; i < s->n.cells; i++) {
        char number[SMI_TAG_TEXT];
        const smi_snap_cell *c = &s->cells[i];
        if (c->sum.bytes == 0) continue;
        smi_report_stack(out, smi_report_tag(s->tags[c->tag].name, c->tag, number), &s->owners[c->owner]);
        smi_report_put(out, " %llu\n", (unsigned long long)c->sum.bytes);
    }
}

/* -- HTML: one page that needs nothing else. Coordinates are tenths of a pixel, so that they are integers. ---------------- */

enum { SMI_MAP_WIDTH = 9600, SMI_MAP_HEIGHT = 4000, SMI_MAP_TITLE = 220, SMI_LINE_HEIGHT = 1600, SMI_COLOURS = 8 };
static const char *smi_html_colour(uint32_t n) {
    static const char *const colours[SMI_COLOURS] = {"#2f6db3", "#3c8a4e", "#a8581f", "#7a4fa3",
                                                     "#a83a4c", "#26838c", "#7d6b1d", "#5b6470"};
    return colours[n % SMI_COLOURS];
}

typedef struct smi_html_box {
    int x, y, w, h;
} smi_html_box;

typedef struct smi_html_map {
    smi_report_out *out;
    const sagemem_snapshot *s;
    uint32_t groups; /* drawn so far: each has a colour */
} smi_html_map;

static const smi_snap_tag *smi_html_tag(const smi_html_map *m, uint32_t i) { return &m->s->tags[m->s->order[i]]; }

static void smi_html_words(smi_report_out *out, smi_html_box b, int below, const char *text, size_t length, const char *more) {
    size_t fits = b.w > 160 ? (size_t)(b.w - 100) / 72 : 0; /* of 12 pixels, a letter is 7 wide */
    bool all = length <= fits;
    size_t shown = all ? length : fits > 2 ? fits - 2 : 0;
    while (shown > 0 && shown < length && ((unsigned char)text[shown] & 0xC0) == 0x80) shown--; /* not inside a character */
    if (shown == 0) return;
    smi_report_put(out, "<text x=\"%d\" y=\"%d\">", b.x + 60, b.y + below);
    smi_report_part(out, text, shown, SMI_XML);
    smi_report_put(out, "%s%s</text>\n", all ? "" : "..", all && length + strlen(more) < fits ? more : "");
}

static void smi_html_leaf(const smi_html_map *m, uint32_t i, smi_html_box b) {
    const smi_snap_tag *t = smi_html_tag(m, i);
    char number[SMI_TAG_TEXT], bytes[SMI_BYTES_TEXT], more[SMI_BYTES_TEXT + 8];
    const char *name = smi_report_tag(t->name, m->s->order[i], number);
    const char *own = name + (t->group > 0 ? t->group + 1 : 0);
    unsigned share = smi_report_share(t->at_peak, m->s->peak);
    smi_report_put(m->out, "<g><title>");
    smi_report_part(m->out, name, SIZE_MAX, SMI_XML);
    smi_report_put(m->out, ": %s, %u.%u%%</title>", smi_report_bytes(bytes, t->at_peak), share / 10, share % 10);
    smi_report_put(m->out,
                   "<rect data-bytes=\"%llu\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"#fff\" "
                   "stroke-width=\"10\"/>\n",
                   (unsigned long long)t->at_peak, b.x, b.y, b.w, b.h, smi_html_colour(m->groups - 1));
    smi_text(more, sizeof more, " %s", bytes);
    if (b.h >= 200) smi_html_words(m->out, b, 160, own, strlen(own), more);
    smi_report_put(m->out, "</g>\n");
}

/* The name of a group over its tags; what is left for these. */
static smi_html_box smi_html_group(smi_html_map *m, uint32_t i, smi_html_box b) {
    const smi_snap_tag *t = smi_html_tag(m, i);
    char bytes[SMI_BYTES_TEXT], more[SMI_BYTES_TEXT + 8];
    m->groups++;
    if (t->group == 0 || b.h < 3 * SMI_MAP_TITLE || b.w < 2 * SMI_MAP_TITLE) return b;
    smi_report_put(m->out, "<g font-weight=\"bold\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", b.x, b.y,
                   b.w, SMI_MAP_TITLE, smi_html_colour(m->groups - 1));
    smi_text(more, sizeof more, " %s", smi_report_bytes(bytes, t->group_at_peak));
    smi_html_words(m->out, b, 160, t->name, t->group, more);
    smi_report_put(m->out, "</g>\n");
    b.y += SMI_MAP_TITLE;
    b.h -= SMI_MAP_TITLE;
    return b;
}

/* Where [a, b) falls into two parts of as nearly the same size as can be, groups unbroken; b: it is one group. */
static uint32_t smi_html_middle(const smi_html_map *m, uint32_t a, uint32_t b, bool inside, uint64_t whole, uint64_t *left) {
    uint32_t best = b;
    uint64_t sum = 0, least = UINT64_MAX;
    for (uint32_t i = a; i + 1 < b; i++) {
        sum += smi_html_tag(m, i)->at_peak;
        if (!inside && smi_snap_same_group(smi_html_tag(m, i), smi_html_tag(m, i + 1))) continue;
        uint64_t rest = whole - sum, off = sum > rest ? sum - rest : rest - sum;
        if (off >= least) continue;
        least = off;
        best = i + 1;
        *left = sum;
    }
    return best;
}

/* Halves the rectangle with the list, along its longer side, until one tag has one (a balanced slice-and-dice; Shneiderman
 * 1992). Lists are sorted, so that what comes to nothing is at the end. */
static void smi_html_split(smi_html_map *m, uint32_t a, uint32_t b, bool inside, smi_html_box box) {
    uint64_t whole = 0, left = 0;
    for (uint32_t i = a; i < b; i++) whole += smi_html_tag(m, i)->at_peak;
    if (whole == 0 || a == b) return;
    uint32_t middle = smi_html_middle(m, a, b, inside, whole, &left);
    if (middle == b && !inside) {
        smi_html_split(m, a, b, true, smi_html_group(m, a, box));
    } else if (middle == b) {
        smi_html_leaf(m, a, box);
    } else {
        bool wide = box.w >= box.h;
        int side = wide ? box.w : box.h, first = (int)((double)side * ((double)left / (double)whole) + 0.5);
        smi_html_box one = box, two = box;
        *(wide ? &one.w : &one.h) = first;
        *(wide ? &two.w : &two.h) = side - first;
        *(wide ? &two.x : &two.y) += first;
        smi_html_split(m, a, middle, inside, one);
        smi_html_split(m, middle, b, inside, two);
    }
}

static void smi_html_treemap(smi_report_out *out, const sagemem_snapshot *s) {
    smi_html_map m = {out, s, 0};
    smi_html_box all = {0, 0, SMI_MAP_WIDTH, SMI_MAP_HEIGHT};
    smi_report_put(out, "<svg id=\"treemap\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"120\" fill=\"#fff\">\n",
                   SMI_MAP_WIDTH, SMI_MAP_HEIGHT);
    smi_html_split(&m, 0, s->ordered, false, all);
    smi_report_put(out, "</svg>\n");
}

/* Scopes that have ended, from left to right, as high as their peaks. */
static void smi_html_timeline(smi_report_out *out, const sagemem_snapshot *s) {
    uint64_t first = 0, last = UINT64_MAX, worst = smi_snap_worst_peak(s); /* both of them ago */
    for (uint32_t i = 0; i < s->n.past; i++) {
        const smi_snap_past *p = &s->past[i];
        if (p->ago_ns > first) first = p->ago_ns;
        if (p->ago_ns - p->duration_ns < last) last = p->ago_ns - p->duration_ns;
    }
    if (s->n.past == 0 || worst == 0) return;
    uint64_t span = first > last ? first - last : 1;
    char time[SMI_BYTES_TEXT], bytes[SMI_BYTES_TEXT];
    smi_report_put(out,
                   "<h2>Scopes</h2>\n<p>%s in all; the highest needed %s. Each bar stands for the worst of those around it.</p>\n",
                   smi_report_time(time, span), smi_report_bytes(bytes, worst));
    smi_report_put(out, "<svg id=\"timeline\" viewBox=\"0 0 %d %d\">\n", SMI_MAP_WIDTH, SMI_LINE_HEIGHT);
    for (uint32_t i = 0; i < s->n.past; i++) {
        const smi_past_scope *p = &s->past[i].scope;
        int x = (int)((double)SMI_MAP_WIDTH * ((double)(first - s->past[i].ago_ns) / (double)span));
        int w = (int)((double)SMI_MAP_WIDTH * ((double)s->past[i].duration_ns / (double)span));
        int h = (int)((double)SMI_LINE_HEIGHT * ((double)p->used_peak / (double)worst));
        if (w < 30) w = 30;
        if (x > SMI_MAP_WIDTH - w) x = SMI_MAP_WIDTH - w;
        smi_report_put(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" data-bytes=\"%llu\"%s><title>", x,
                       SMI_LINE_HEIGHT - h, w, h, smi_html_colour(s->past[i].heap), (unsigned long long)p->used_peak,
                       p->used_peak == worst ? " class=\"worst\"" : "");
        smi_report_part(out, p->kind, SIZE_MAX, SMI_XML);
        smi_report_put(out, " %llu: %s for %s", (unsigned long long)p->id, smi_report_bytes(bytes, p->used_peak),
                       smi_report_time(time, s->past[i].duration_ns));
        smi_report_put(out, p->count > 1 ? ", the worst of %llu</title></rect>\n" : "</title></rect>\n",
                       (unsigned long long)p->count);
    }
    smi_report_put(out, "</svg>\n");
}

static void smi_html_number(smi_report_out *out, const char *what, uint64_t bytes) {
    char text[SMI_BYTES_TEXT];
    smi_report_put(out, "<td data-%s=\"%llu\">%s</td>", what, (unsigned long long)bytes, smi_report_bytes(text, bytes));
}

static void smi_html_where_row(smi_report_out *out, const char *what, const char *key, uint64_t bytes, uint64_t whole) {
    unsigned share = smi_report_share(bytes, whole);
    smi_report_put(out, "<tr><th>%s</th>", what);
    smi_html_number(out, key, bytes);
    smi_report_put(out, "<td class=\"bar\"><i style=\"width:%u.%u%%\"></i></td></tr>\n", share / 10, share % 10);
}
static void smi_html_where(smi_report_out *out, const sagemem_snapshot *s) {
    smi_snap_where w = smi_snap_parts(s);
    uint64_t all = w.used + w.unused + w.library + w.mapped + (s->is_process ? w.rest : 0);
    smi_report_put(out, "<h2>Where memory is</h2>\n<table id=\"where\">\n");
    smi_html_where_row(out, "ours, in use", "used-total", w.used, all);
    smi_html_where_row(out, "ours, held but unused", "unused", w.unused, all);
    if (s->is_process) smi_html_where_row(out, "the library's own", "library", w.library, all);
    smi_html_where_row(out, "mapped files", "mapped-total", w.mapped, all);
    if (s->is_process) smi_html_where_row(out, "rest of the process", "rest", w.rest, all);
    if (s->is_process) smi_html_where_row(out, "resident", "resident", s->resident, all);
    smi_report_put(out, "</table>\n");
}

static void smi_html_tags(smi_report_out *out, const sagemem_snapshot *s) {
    smi_report_put(out, "<h2>Tags</h2>\n<table id=\"tags\">\n<tr><th>tag</th><th>used</th><th>peak</th><th>at peak</th><th></th>"
                        "<th>blocks</th><th>blocks ever</th></tr>\n");
    for (uint32_t i = 0; i < s->ordered; i++) {
        char number[SMI_TAG_TEXT];
        const smi_snap_tag *t = &s->tags[s->order[i]];
        unsigned share = smi_report_share(t->at_peak, s->peak);
        smi_report_put(out, "<tr><th>");
        smi_report_part(out, smi_report_tag(t->name, s->order[i], number), SIZE_MAX, SMI_XML);
        smi_report_put(out, "</th>");
        smi_html_number(out, "used", t->sum.bytes);
        smi_html_number(out, "peak", t->peak);
        smi_html_number(out, "at-peak", t->at_peak);
        smi_report_put(
            out, "<td class=\"bar\"><i style=\"width:%u.%u%%\"></i></td><td data-blocks=\"%llu\">%llu</td><td>%llu</td></tr>\n",
            share / 10, share % 10, (unsigned long long)t->sum.blocks, (unsigned long long)t->sum.blocks,
            (unsigned long long)t->sum.total_blocks);
    }
    smi_report_put(out, "</table>\n");
}

static void smi_html_owners(smi_report_out *out, const sagemem_snapshot *s) {
    if (s->n.owners > 1)
        smi_report_put(out, "<h2>Heaps and open scopes</h2>\n<table id=\"owners\">\n<tr><th>owner</th><th>in</th><th>used</th>"
                            "<th>with what is below</th><th>peak</th><th>held</th></tr>\n");
    for (uint32_t i = 1; i < s->n.owners; i++) {
        const smi_snap_owner *o = &s->owners[i];
        char name[SMI_OWNER_TEXT];
        smi_report_put(out, "<tr><th>");
        smi_report_part(out, smi_report_owner(o, name), SIZE_MAX, SMI_XML);
        smi_report_put(out, "</th><th>");
        smi_report_part(out, smi_report_owner(&s->owners[o->parent], name), SIZE_MAX, SMI_XML);
        smi_report_put(out, "</th>");
        smi_html_number(out, "own", o->own.bytes);
        smi_html_number(out, "all", o->all.bytes);
        smi_html_number(out, "owner-peak", o->peak);
        smi_html_number(out, "held", o->held);
        smi_report_put(out, "</tr>\n");
    }
    if (s->n.owners > 1) smi_report_put(out, "</table>\n");
}

static void smi_html_files(smi_report_out *out, const sagemem_snapshot *s) {
    if (s->n.files > 0)
        smi_report_put(
            out, "<h2>Open files</h2>\n<table id=\"files\">\n<tr><th>file</th><th>by</th><th>mapped</th><th>buffered</th></tr>\n");
    for (uint32_t i = 0; i < s->n.files; i++) {
        const smi_snap_file *f = &s->files[i];
        smi_report_put(out, "<tr><th>");
        smi_report_part(out, f->name, sizeof f->name, SMI_XML);
        smi_report_put(out, "</th><th>%s</th>", f->kind);
        smi_html_number(out, "mapped", f->mapped);
        smi_html_number(out, "buffered", f->buffered);
        smi_report_put(out, "</tr>\n");
    }
    if (s->n.files > 0) smi_report_put(out, "</table>\n");
}

static void smi_report_html(smi_report_out *out, const sagemem_snapshot *s) {
    char a[SMI_BYTES_TEXT], b[SMI_BYTES_TEXT], c[SMI_BYTES_TEXT];
    const smi_snap_owner *o = &s->owners[0];
    smi_report_put(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                        "<meta name=\"viewport\" content=\"width=device-width\">\n<title>sagemem: ");
    smi_report_part(out, o->name, SIZE_MAX, SMI_XML);
    smi_report_put(out,
                   "</title>\n<style>\n:root{color-scheme:light dark}\nbody{font:15px/1.5 system-ui,sans-serif;max-width:960px;"
                   "margin:2em auto;padding:0 1em}\nsvg{width:100%%;height:auto}\n");
    smi_report_put(out, "table{border-collapse:collapse;width:100%%}\nth{text-align:left;font-weight:normal}\ntr:first-child th{"
                        "opacity:.7}\ntd{text-align:right;font-variant-numeric:tabular-nums}\nth,td{padding:.15em .5em}\n");
    smi_report_put(out,
                   "tr:nth-child(even){background:rgba(128,128,128,.12)}\n.bar{width:30%%}\n.bar i{display:block;height:.8em;"
                   "background:%s}\n.worst{fill:#a83a4c}\n</style>\n</head>\n<body>\n<h1>",
                   smi_html_colour(0));
    smi_report_part(out, o->name, SIZE_MAX, SMI_XML);
    smi_report_put(out, "</h1>\n<p>%s used in %llu blocks, peak %s, held %s.</p>\n", smi_report_bytes(a, o->all.bytes),
                   (unsigned long long)o->all.blocks, smi_report_bytes(b, s->peak), smi_report_bytes(c, o->held));
    smi_html_where(out, s);
    smi_report_put(out, "<h2>What made the peak</h2>\n");
    smi_html_treemap(out, s);
    smi_html_tags(out, s);
    smi_html_timeline(out, s);
    smi_html_owners(out, s);
    smi_html_files(out, s);
    smi_report_put(out, "</body>\n</html>\n");
}

/* -- Differences: what a tag has in an owner, here and there. What is an owner in one of both only had nothing before, or
 *    has nothing after. --------------------------------------------------------------------------------------------------- */

typedef struct smi_diff_row {
    const char *tag;
    const sagemem_snapshot *of; /* where the owner is */
    const smi_snap_owner *owner;
    const char *file; /* NULL: all sites together */
    int line;
    uint64_t bytes[2], blocks[2]; /* before, after */
} smi_diff_row;

typedef struct smi_diff {
    smi_report_out *out;
    const sagemem_snapshot *s[2]; /* before, after */
    void (*row_fn)(struct smi_diff *d, const smi_diff_row *row);
    bool sites, first;
} smi_diff;

static const smi_snap_owner *smi_diff_owner(const sagemem_snapshot *s, const smi_snap_owner *like) {
    for (uint32_t i = 0; i < s->n.owners; i++) {
        const smi_snap_owner *o = &s->owners[i];
        if (o->key == like->key && o->name == like->name && o->is_scope == like->is_scope && o->id == like->id) return o;
    }
    return NULL;
}

/* The first site of a tag of an owner; the end of all sites when it has none. */
static uint32_t smi_diff_site(const sagemem_snapshot *s, const smi_snap_owner *o, uint32_t tag) {
    uint32_t i = o != NULL ? 0 : s->n.sites;
    while (i < s->n.sites && (&s->owners[s->sites[i].owner] != o || s->sites[i].tag != tag)) i++;
    return i;
}
static const smi_snap_site *smi_diff_site_at(const sagemem_snapshot *s, uint32_t i, const smi_snap_owner *o, uint32_t tag) {
    return i < s->n.sites && &s->owners[s->sites[i].owner] == o && s->sites[i].tag == tag ? &s->sites[i] : NULL;
}
static int smi_diff_site_order(const smi_snap_site *a, const smi_snap_site *b) {
    if (a == NULL || b == NULL) return a == NULL ? 1 : -1;
    int files = strcmp(a->file, b->file);
    return files != 0 ? files : a->line - b->line;
}

/* Both lists of sites, merged. */
static void smi_diff_sites(smi_diff *d, smi_diff_row row, const smi_snap_owner *const o[2], uint32_t tag) {
    uint32_t at[2];
    for (int k = 0; k < 2; k++) at[k] = smi_diff_site(d->s[k], o[k], tag);
    for (;;) {
        const smi_snap_site *site[2];
        for (int k = 0; k < 2; k++) site[k] = smi_diff_site_at(d->s[k], at[k], o[k], tag);
        if (site[0] == NULL && site[1] == NULL) return;
        int order = smi_diff_site_order(site[0], site[1]);
        const smi_snap_site *which = order <= 0 ? site[0] : site[1];
        row.file = which->file;
        row.line = which->line;
        for (int k = 0; k < 2; k++) {
            bool here = order == 0 || which == site[k];
            row.bytes[k] = here ? site[k]->bytes : 0;
            row.blocks[k] = here ? site[k]->blocks : 0;
            at[k] += here;
        }
        d->row_fn(d, &row);
    }
}

static void smi_diff_cells(smi_diff *d, const smi_snap_owner *before, const smi_snap_owner *after) {
    const smi_snap_owner *const o[2] = {before, after};
    uint32_t tags = d->s[0]->n.tags > d->s[1]->n.tags ? d->s[0]->n.tags : d->s[1]->n.tags;
    for (uint32_t t = 0; t < tags; t++) {
        const smi_snap_cell *c[2];
        for (int k = 0; k < 2; k++) c[k] = o[k] != NULL ? smi_snap_find(d->s[k], o[k], t) : NULL;
        if (c[0] == NULL && c[1] == NULL) continue;
        char number[SMI_TAG_TEXT];
        int of = after != NULL ? 1 : 0;
        smi_diff_row row;
        memset(&row, 0, sizeof row);
        row.tag = smi_report_tag(c[1] != NULL ? d->s[1]->tags[t].name : d->s[0]->tags[t].name, t, number);
        row.of = d->s[of];
        row.owner = o[of];
        for (int k = 0; k < 2; k++) {
            row.bytes[k] = c[k] != NULL ? c[k]->sum.bytes : 0;
            row.blocks[k] = c[k] != NULL ? c[k]->sum.blocks : 0;
        }
        d->row_fn(d, &row);
        if (d->sites) smi_diff_sites(d, row, o, t);
    }
}

static void smi_diff_each(smi_diff *d) {
    const sagemem_snapshot *before = d->s[0], *after = d->s[1];
    for (uint32_t i = 0; i < after->n.owners; i++) smi_diff_cells(d, smi_diff_owner(before, &after->owners[i]), &after->owners[i]);
    for (uint32_t i = 0; i < before->n.owners; i++)
        if (smi_diff_owner(after, &before->owners[i]) == NULL) smi_diff_cells(d, &before->owners[i], NULL);
}

static bool smi_diff_changed(const smi_diff_row *r) { return r->bytes[0] != r->bytes[1] || r->blocks[0] != r->blocks[1]; }

/* "+1.25 MiB" */
static const char *smi_diff_bytes(char text[SMI_BYTES_TEXT], uint64_t before, uint64_t after) {
    char size[SMI_BYTES_TEXT];
    smi_report_bytes(size, after >= before ? after - before : before - after);
    smi_text(text, SMI_BYTES_TEXT, "%c%s", after >= before ? '+' : '-', size);
    return text;
}
static const char *smi_diff_number(char text[24], uint64_t before, uint64_t after) {
    smi_text(text, 24, "%c%llu", after >= before ? '+' : '-',
             (unsigned long long)(after >= before ? after - before : before - after));
    return text;
}

static void smi_diff_text_row(smi_diff *d, const smi_diff_row *r) {
    char bytes[SMI_BYTES_TEXT], blocks[24], owner[SMI_OWNER_TEXT];
    if (!smi_diff_changed(r)) return;
    if (d->first) smi_report_put(d->out, "\n  %-30s %10s %12s  %s\n", "tag", "used", "blocks", "where");
    d->first = false;
    if (r->file == NULL) smi_report_column(d->out, 2, r->tag, SMI_NAME_COLUMN + 2);
    else smi_report_column(d->out, 4, "from", SMI_NAME_COLUMN + 2);
    smi_report_put(d->out, " %10s %12s  ", smi_diff_bytes(bytes, r->bytes[0], r->bytes[1]),
                   smi_diff_number(blocks, r->blocks[0], r->blocks[1]));
    if (r->file != NULL) smi_report_put(d->out, "%s:%d\n", r->file, r->line);
    if (r->file != NULL) return;
    smi_report_part(d->out, smi_report_owner(r->owner, owner), SIZE_MAX, SMI_PLAIN);
    smi_report_raw(d->out, "\n", 1);
}

static void smi_diff_brief(smi_diff *d) {
    const smi_snap_owner *a = &d->s[0]->owners[0], *b = &d->s[1]->owners[0];
    char used[SMI_BYTES_TEXT], to[SMI_BYTES_TEXT], blocks[24], held[SMI_BYTES_TEXT], time[SMI_BYTES_TEXT];
    smi_report_put(d->out, "sagemem: ");
    smi_report_part(d->out, b->name, SIZE_MAX, SMI_PLAIN);
    smi_report_put(d->out, " used %s, to %s, blocks %s, held %s in %s\n", smi_diff_bytes(used, a->all.bytes, b->all.bytes),
                   smi_report_bytes(to, b->all.bytes), smi_diff_number(blocks, a->all.blocks, b->all.blocks),
                   smi_diff_bytes(held, a->held, b->held), smi_report_time(time, smi_minus(d->s[1]->taken_ns, d->s[0]->taken_ns)));
}

static void smi_diff_json_row(smi_diff *d, const smi_diff_row *r) {
    char bytes[24], blocks[24];
    if (!smi_diff_changed(r)) return;
    smi_report_first(d->out, "tag", r->tag, &d->first);
    smi_report_belongs(d->out, r->of, r->owner);
    if (r->file != NULL) {
        smi_report_member(d->out, "site", r->file);
        smi_report_number(d->out, "line", (uint64_t)r->line);
    }
    const char *b = smi_diff_number(bytes, r->bytes[0], r->bytes[1]), *n = smi_diff_number(blocks, r->blocks[0], r->blocks[1]);
    smi_report_put(d->out, ", \"used\": %s, \"blocks\": %s}", b + (*b == '+'), n + (*n == '+')); /* no plus in JSON */
}

static void smi_diff_json(smi_diff *d) {
    const smi_snap_owner *a = &d->s[0]->owners[0], *b = &d->s[1]->owners[0];
    const uint64_t now[] = {b->all.bytes, b->all.blocks, b->held}, before[] = {a->all.bytes, a->all.blocks, a->held};
    static const char *const keys[] = {"used", "blocks", "held"};
    smi_report_put(d->out, "{\"schema\": \"sagemem-diff-1\", \"name\": ");
    smi_report_name(d->out, b->name, SMI_JSON);
    for (int i = 0; i < 3; i++) {
        char text[24];
        const char *number = smi_diff_number(text, before[i], now[i]);
        smi_report_put(d->out, ", \"%s\": %s", keys[i], number + (*number == '+'));
    }
    for (int sites = 0; sites < 2; sites++) {
        smi_report_put(d->out, sites ? "],\n \"sites\": [" : ",\n \"rows\": [");
        d->first = true;
        d->sites = sites != 0;
        smi_diff_each(d);
    }
    smi_report_put(d->out, "]}\n");
}
/* First the tags alone, then the sites alone. */
static void smi_diff_json_either(smi_diff *d, const smi_diff_row *r) {
    if (d->sites == (r->file != NULL)) smi_diff_json_row(d, r);
}

static void smi_diff_csv_row(smi_diff *d, const smi_diff_row *r) {
    char bytes[24], blocks[24], owner[SMI_OWNER_TEXT];
    if (!smi_diff_changed(r)) return;
    const char *b = smi_diff_number(bytes, r->bytes[0], r->bytes[1]), *n = smi_diff_number(blocks, r->blocks[0], r->blocks[1]);
    smi_report_name(d->out, r->of->owners[r->owner->heap].name, SMI_CSV);
    smi_report_raw(d->out, ",", 1);
    smi_report_name(d->out, r->owner->is_scope ? smi_report_owner(r->owner, owner) : "", SMI_CSV);
    smi_report_raw(d->out, ",", 1);
    smi_report_name(d->out, r->tag, SMI_CSV);
    smi_report_put(d->out, ",%s,%s\n", b + (*b == '+'), n + (*n == '+'));
}

/* What tools for differences of flame graphs read: both counts behind the stack. */
static void smi_diff_folded_row(smi_diff *d, const smi_diff_row *r) {
    if (r->bytes[0] == 0 && r->bytes[1] == 0) return;
    smi_report_stack(d->out, r->tag, r->owner);
    smi_report_put(d->out, " %llu %llu\n", (unsigned long long)r->bytes[0], (unsigned long long)r->bytes[1]);
}

static void smi_diff_write(smi_diff *d, sagemem_format format) {
    d->first = true;
    if (format == SAGEMEM_FORMAT_TEXT || format == SAGEMEM_FORMAT_BRIEF) {
        smi_diff_brief(d);
        d->row_fn = smi_diff_text_row;
        d->sites = true;
        if (format == SAGEMEM_FORMAT_TEXT) smi_diff_each(d);
    } else if (format == SAGEMEM_FORMAT_JSON) {
        d->row_fn = smi_diff_json_either;
        smi_diff_json(d);
    } else {
        bool csv = format == SAGEMEM_FORMAT_CSV;
        d->row_fn = csv ? smi_diff_csv_row : smi_diff_folded_row;
        if (csv) smi_report_put(d->out, "heap,scope,tag,used,blocks\n");
        smi_diff_each(d);
    }
}

/* -- Leaks ------------------------------------------------------------------------------------------------------------ */

static void smi_leaks_row(smi_report_out *out, uint64_t bytes, uint64_t blocks) {
    char text[SMI_BYTES_TEXT];
    smi_report_put(out, "  %10s in %llu %s ", smi_report_bytes(text, bytes), (unsigned long long)blocks,
                   blocks == 1 ? "block" : "blocks");
}

/* By tag and owner, then where each was allocated, as far as that is known. */
static void smi_leaks_write(smi_report_out *out, const sagemem_snapshot *s) {
    char bytes[SMI_BYTES_TEXT];
    const smi_snap_owner *o = &s->owners[0];
    smi_report_put(out, "sagemem: %llu %s with %s left in %s '", (unsigned long long)o->all.blocks,
                   o->all.blocks == 1 ? "block" : "blocks", smi_report_bytes(bytes, o->all.bytes),
                   s->is_process ? "process" : "heap");
    smi_report_part(out, o->name, SIZE_MAX, SMI_PLAIN);
    smi_report_put(out, "'\n");
    for (uint32_t i = 0; i < s->n.cells; i++) {
        const smi_snap_cell *c = &s->cells[i];
        const smi_snap_owner *owner = &s->owners[c->owner];
        char number[SMI_TAG_TEXT], name[SMI_OWNER_TEXT];
        if (c->sum.blocks == 0) continue;
        smi_leaks_row(out, c->sum.bytes, c->sum.blocks);
        smi_report_put(out, "of ");
        smi_report_part(out, smi_report_tag(s->tags[c->tag].name, c->tag, number), SIZE_MAX, SMI_PLAIN);
        smi_report_put(out, owner->is_scope ? ", scope " : ", heap ");
        smi_report_part(out, smi_report_owner(owner, name), SIZE_MAX, SMI_PLAIN);
        if (owner->is_scope) {
            smi_report_put(out, " of heap ");
            smi_report_part(out, s->owners[owner->heap].name, SIZE_MAX, SMI_PLAIN);
        }
        smi_report_raw(out, "\n", 1);
        for (uint32_t k = smi_diff_site(s, owner, c->tag); smi_diff_site_at(s, k, owner, c->tag) != NULL; k++) {
            smi_report_put(out, "  ");
            smi_leaks_row(out, s->sites[k].bytes, s->sites[k].blocks);
            smi_report_put(out, "from %s:%d\n", s->sites[k].file, s->sites[k].line);
        }
    }
}

/* -- The public calls ----------------------------------------------------------------------------------------------------- */

static sagemem_status smi_report_format(sagemem_format format, const char *call) {
    if ((unsigned)format <= SAGEMEM_FORMAT_HTML) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                    "format %d is unknown; use SAGEMEM_FORMAT_TEXT, _BRIEF, _JSON, _CSV, _PROMETHEUS, _FOLDED or _HTML",
                    (int)format);
}
static sagemem_status smi_report_sink(const sagemem_sink *to, const char *call) {
    if (to != NULL && to->write_fn != NULL) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                    "the report needs a sink with a write_fn; sagemem_report_file(heap, format, \"-\") writes to standard output");
}

static sagemem_status smi_report_write(const sagemem_snapshot *s, sagemem_format format, const sagemem_sink *to) {
    static void (*const writers[])(smi_report_out * out, const sagemem_snapshot *s) = {
        smi_report_text,       smi_report_brief,  smi_report_json, smi_report_csv,
        smi_report_prometheus, smi_report_folded, smi_report_html};
    smi_report_out out;
    smi_report_begin(&out, to);
    smi_snap_sort(s);
    writers[format](&out, s);
    return smi_report_end(&out);
}

/* A live heap, or the process; NULL: the fault handler was called. */
static smi_domain *smi_report_root(const sagemem_heap *heap, const char *call) {
    smi_start();
    if (heap == NULL) return &smi_process;
    return smi_heap_alive(heap, call) ? (smi_domain *)(uintptr_t)heap : NULL;
}

SAGEMEM_API sagemem_status sagemem_report(const sagemem_heap *heap, sagemem_format format, const sagemem_sink *to) {
    const char *call = "sagemem_report";
    if (smi_report_sink(to, call) != SAGEMEM_OK || smi_report_format(format, call) != SAGEMEM_OK) return smi_mine.error.status;
    smi_domain *root = smi_report_root(heap, call);
    sagemem_snapshot *s = root != NULL ? smi_snap_make(root, true, call) : NULL;
    if (s == NULL) return smi_mine.error.status;
    sagemem_status status = smi_report_write(s, format, to);
    smi_snap_drop(s);
    return status;
}

SAGEMEM_API sagemem_snapshot *sagemem_snapshot_take(const sagemem_heap *heap) {
    const char *call = "sagemem_snapshot_take";
    smi_domain *root = smi_report_root(heap, call);
    return root != NULL ? smi_snap_make(root, false, call) : NULL;
}

/* False: the fault handler was called. */
static bool smi_snap_alive(const sagemem_snapshot *s, const char *call) {
    const smi_page *page = smi_lookup(s);
    bool ours = page != NULL && page->kind == SMI_META && ((uintptr_t)s & 63) == 0;
    if (ours && s->magic == SMI_SNAP_MAGIC) return true;
    bool freed = ours && s->magic == ~SMI_SNAP_MAGIC;
    smi_fault(SAGEMEM_MISUSE, freed ? SAGEMEM_E_STALE : SAGEMEM_E_FOREIGN, call,
              freed ? "the snapshot %p was freed already" : "%p is no snapshot; pass what sagemem_snapshot_take returned",
              (const void *)s);
    return false;
}

SAGEMEM_API sagemem_status sagemem_snapshot_report(const sagemem_snapshot *snapshot, sagemem_format format,
                                                   const sagemem_sink *to) {
    const char *call = "sagemem_snapshot_report";
    if (smi_report_sink(to, call) != SAGEMEM_OK || smi_report_format(format, call) != SAGEMEM_OK) return smi_mine.error.status;
    if (!smi_snap_alive(snapshot, call)) return smi_mine.error.status;
    return smi_report_write(snapshot, format, to);
}

SAGEMEM_API sagemem_status sagemem_snapshot_diff(const sagemem_snapshot *before, const sagemem_snapshot *after,
                                                 sagemem_format format, const sagemem_sink *to) {
    const char *call = "sagemem_snapshot_diff";
    if (smi_report_sink(to, call) != SAGEMEM_OK || smi_report_format(format, call) != SAGEMEM_OK) return smi_mine.error.status;
    if (format == SAGEMEM_FORMAT_PROMETHEUS || format == SAGEMEM_FORMAT_HTML)
        return smi_fail(
            SAGEMEM_E_UNSUPPORTED, 0, call,
            "a difference is written as SAGEMEM_FORMAT_TEXT, _BRIEF, _JSON, _CSV or _FOLDED; report each snapshot for others");
    if (!smi_snap_alive(before, call) || !smi_snap_alive(after, call)) return smi_mine.error.status;
    const smi_snap_owner *a = &before->owners[0], *b = &after->owners[0];
    if (a->key != b->key || a->name != b->name)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                        "the snapshots are of '%s' and of '%s'; take both of the same heap, or of the process", a->name, b->name);
    smi_report_out out;
    smi_report_begin(&out, to);
    smi_diff d = {&out, {before, after}, NULL, false, true};
    smi_diff_write(&d, format);
    return smi_report_end(&out);
}

SAGEMEM_API void sagemem_snapshot_free(sagemem_snapshot *snapshot) {
    if (snapshot != NULL && smi_snap_alive(snapshot, "sagemem_snapshot_free")) smi_snap_drop(snapshot);
}

SAGEMEM_API size_t sagemem_leaks(const sagemem_heap *heap, const sagemem_sink *to) {
    const char *call = "sagemem_leaks";
    if (to != NULL && smi_report_sink(to, call) != SAGEMEM_OK) return 0;
    smi_domain *root = smi_report_root(heap, call);
    if (root == NULL) return 0;
    sagemem_snapshot *s = to != NULL ? smi_snap_make(root, true, call) : NULL;
    sagemem_heap_stats stats;
    memset(&stats, 0, sizeof stats);
    if (s == NULL) return sagemem_heap_get_stats(heap, &stats) == SAGEMEM_OK ? (size_t)stats.blocks : 0;
    size_t left = (size_t)s->owners[0].all.blocks;
    smi_report_out out;
    smi_report_begin(&out, to);
    smi_leaks_write(&out, s);
    (void)smi_report_end(&out);
    smi_snap_drop(s);
    return left;
}

/* -- Reports in files: written beside, and then in the place of the old one, so that who reads finds a whole one. What is
 *    no file (a terminal, a pipe, a device) is written as it is. */

enum { SMI_REPORT_PATH = 4096 };
typedef struct smi_report_place {
    char target[SMI_REPORT_PATH], beside[SMI_REPORT_PATH + 64];
    smi_os_handle handle;
    bool renames;
    const char *call, *path;
} smi_report_place;

static sagemem_status smi_report_file_fails(const smi_report_place *p, const char *what) {
    int reason = smi_os_error();
    return smi_fail(SAGEMEM_E_IO, reason, p->call, "'%.120s' %s: %s; look at the path and the disk, and repeat the call", p->path,
                    what, smi_os_error_text(reason));
}

static sagemem_status smi_report_write_file(void *ctx, const void *data, size_t size, uint64_t offset) {
    const smi_report_place *p = (const smi_report_place *)ctx;
    const char *at = (const char *)data;
    (void)offset;
    for (size_t put; size > 0; at += put, size -= put)
        if (!smi_os_write(p->handle, at, size, &put)) return smi_report_file_fails(p, "could not be written");
    return SAGEMEM_OK;
}

static sagemem_status smi_report_open(smi_report_place *p) {
    static uint32_t number;
    smi_os_info old;
    bool there = smi_os_info_at(p->path, &old);
    p->renames = !there || old.regular;
    if (!p->renames)
        return smi_os_open(&p->handle, p->path, SMI_OS_WRITE, 0666) ? SAGEMEM_OK
                                                                    : smi_report_file_fails(p, "cannot be opened for writing");
    if (!smi_os_real_target(p->path, p->target, sizeof p->target)) return smi_report_file_fails(p, "cannot be opened for writing");
    const char *name = smi_os_name_in(p->target);
    smi_text(p->beside, sizeof p->beside, "%.*s.%.100s.sagemem-report-%u-%u", (int)(name - p->target), p->target, name,
             smi_os_process_id(), (unsigned)__atomic_add_fetch(&number, 1, __ATOMIC_RELAXED));
    if (!smi_os_open(&p->handle, p->beside, SMI_OS_REPLACE, there ? old.permissions & 0777u : 0666u))
        return smi_report_file_fails(p, "cannot be opened for writing");
    if (!there || smi_os_set_permissions(p->handle, old.permissions & 0777u)) return SAGEMEM_OK;
    sagemem_status status = smi_report_file_fails(p, "cannot be given the permissions of the old one");
    (void)smi_os_close(p->handle);
    smi_os_unlink(p->beside);
    return status;
}

/* The new one takes the place of the old one, if all is well. */
static sagemem_status smi_report_close(const smi_report_place *p, sagemem_status status) {
    bool closed = smi_os_close(p->handle);
    if (status == SAGEMEM_OK && !closed) status = smi_report_file_fails(p, "could not be written");
    if (status == SAGEMEM_OK && p->renames && !smi_os_rename(p->beside, p->target))
        status = smi_report_file_fails(p, "could not be replaced");
    if (status != SAGEMEM_OK && p->renames) {
        sagemem_error kept = smi_mine.error;
        smi_os_unlink(p->beside);
        smi_mine.error = kept;
    }
    return status;
}

/* Behind what the program has printed. */
static sagemem_status smi_report_write_stdout(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)offset;
    if (!smi_os_fails() && fwrite(data, 1, size, stdout) == size) return SAGEMEM_OK;
    return smi_fail(SAGEMEM_E_IO, smi_os_error(), (const char *)ctx,
                    "standard output could not be written: %s; look at where it leads", strerror(smi_os_error()));
}
static sagemem_status smi_report_stdout(const sagemem_heap *heap, sagemem_format format, const char *call) {
    sagemem_sink sink = {smi_report_write_stdout, NULL, (void *)(uintptr_t)call};
    sagemem_status status = sagemem_report(heap, format, &sink);
    if (status != SAGEMEM_OK || (!smi_os_fails() && fflush(stdout) == 0)) return status;
    return smi_fail(SAGEMEM_E_IO, smi_os_error(), call, "standard output could not be written: %s; look at where it leads",
                    strerror(smi_os_error()));
}

SAGEMEM_API sagemem_status sagemem_report_file(const sagemem_heap *heap, sagemem_format format, const char *path) {
    const char *call = "sagemem_report_file";
    if (path == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "path is NULL: pass a file name, or \"-\" for standard output");
    if (smi_report_format(format, call) != SAGEMEM_OK || smi_report_root(heap, call) == NULL) return smi_mine.error.status;
    if (strcmp(path, "-") == 0) return smi_report_stdout(heap, format, call);
    smi_report_place place;
    memset(&place, 0, sizeof place);
    place.call = call;
    place.path = path;
    sagemem_status status = smi_report_open(&place);
    if (status != SAGEMEM_OK) return status;
    sagemem_sink sink = {smi_report_write_file, NULL, &place};
    return smi_report_close(&place, sagemem_report(heap, format, &sink));
}

static bool smi_report_exit_set;
static sagemem_format smi_report_exit_format;
static char smi_report_exit_path[1024];
static int smi_report_exit_status;

/* Each line of what is left, to the logger. */
typedef struct smi_leaks_log {
    char line[300];
    size_t used;
} smi_leaks_log;
static sagemem_status smi_leaks_log_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    smi_leaks_log *log = (smi_leaks_log *)ctx;
    (void)offset;
    for (const char *at = (const char *)data; size > 0; at++, size--) {
        if (*at != '\n' && log->used < sizeof log->line - 1) log->line[log->used++] = *at;
        if (*at != '\n') continue;
        log->line[log->used] = '\0';
        smi_log(SAGEMEM_LOG_ERROR, "%s", log->line);
        log->used = 0;
    }
    return SAGEMEM_OK;
}

static void smi_report_exit(void) {
    if (smi_report_exit_path[0] != '\0' && sagemem_report_file(NULL, smi_report_exit_format, smi_report_exit_path) != SAGEMEM_OK)
        smi_log(SAGEMEM_LOG_ERROR, "report at exit: %s", smi_mine.error.message);
    sagemem_heap_stats s;
    if (smi_report_exit_status == 0 || sagemem_heap_get_stats(NULL, &s) != SAGEMEM_OK || s.blocks == 0) return;
    smi_log(SAGEMEM_LOG_ERROR, "%llu blocks with %llu bytes were never freed:", (unsigned long long)s.blocks,
            (unsigned long long)s.used);
    smi_leaks_log log;
    sagemem_sink sink = {smi_leaks_log_write, NULL, &log};
    log.used = 0;
    sagemem_leaks(NULL, &sink);
    fflush(NULL); /* _Exit does not, and exit must not be called again */
    _Exit(smi_report_exit_status);
}

SAGEMEM_API sagemem_status sagemem_report_at_exit(sagemem_format format, const char *path, int leak_exit_status) {
    const char *call = "sagemem_report_at_exit";
    smi_start();
    if (smi_report_format(format, call) != SAGEMEM_OK) return smi_mine.error.status;
    if (path != NULL && strlen(path) >= sizeof smi_report_exit_path)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "the path is longer than 1023 bytes; use a shorter one");
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

/* ==========================================================================
 * >>with-hdf5  Records to and from datasets of HDF5.
 * ========================================================================== */
#if SAGEMEM_WITH_HDF5 == 1

/* What a sink has taken, in records of the dataset:
 *
 *      those before it  |  whole records       |  a fraction
 *     0 .......... base | 0 ............ count | part_bytes in `part`
 *
 * Writers flush where their buffer ends, and come back to write over what they have written: both at any byte. What is whole goes
 * to HDF5 at once; the fraction waits, since HDF5 knows records only. A call that fails leaves all of this as it was, and the
 * dataset as long as it was. None of it takes memory or locks of the heap: the writer's thread may be the caller. */

enum { SMI_HDF5_CHUNK = 1 << 16, SMI_HDF5_NAME = 1024 }; /* bytes: a small dataset takes as many, a large one is fast */

typedef struct smi_hdf5 {
    smi_object object;
    hid_t dataset, type; /* 0: none yet */
    size_t record;       /* bytes in memory */
    uint64_t base, count;
    uint64_t chunk; /* records */
    char *part;     /* sink: the fraction; source: record number `read`; behind it as much room again */
    size_t part_bytes;
    uint64_t read;  /* UINT64_MAX: none */
    uint32_t forks; /* of the process that opened it */
    bool makes;     /* the dataset is new, and to be removed if the sink cannot be made */
} smi_hdf5;

static void smi_hdf5_end(smi_object *o);
static size_t smi_hdf5_check(const smi_object *o, const char *call);
static const smi_object_kind smi_hdf5_kind = {"dataset", sizeof(smi_hdf5), smi_hdf5_end, smi_hdf5_check};

/* -- HDF5: its errors, and its handles. Every public call is between H5E_BEGIN_TRY and _END_TRY, which switch HDF5's own printing
 *    off and put back what the program had chosen. */

static herr_t smi_hdf5_first(unsigned n, const H5E_error2_t *error, void *text) {
    (void)n;
    if (error->desc != NULL) snprintf((char *)text, 130, "%s", error->desc);
    return 1; /* the innermost is the reason */
}

/* A call of HDF5 has just failed: no other must come between. */
static sagemem_status smi_hdf5_failed(const char *call, const char *name, const char *what) {
    char why[130] = "HDF5 gives no reason";
    int reason = errno;
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, smi_hdf5_first, why);
    return smi_fail(SAGEMEM_E_IO, reason, call, "%.60s: %s: %s", name, what, why);
}

/* True: this is a call that is to fail. */
static bool smi_hdf5_fails(void) {
    errno = 0;
    return smi_os_file_fails();
}

static void smi_hdf5_drop(hid_t id) {
    if (id > 0) (void)H5Idec_ref(id);
}

/* The dataset in messages: what is behind its last slash would do, but names are short. */
static const char *smi_hdf5_name(const smi_hdf5 *h) { return h->object.name != NULL ? h->object.name : "the dataset"; }

/* -- HDF5: records. */

/* `count` records from `first` on, of those behind base. */
static sagemem_status smi_hdf5_move(const smi_hdf5 *h, bool write, uint64_t first, uint64_t count, void *data, const char *call) {
    hsize_t start = h->base + first, size = count;
    bool fails = smi_hdf5_fails();
    hid_t space = fails ? -1 : H5Dget_space(h->dataset), memory = fails ? -1 : H5Screate_simple(1, &size, NULL);
    bool done = space >= 0 && memory >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &size, NULL) >= 0;
    if (done && write) done = H5Dwrite(h->dataset, h->type, memory, space, H5P_DEFAULT, data) >= 0;
    else if (done) done = H5Dread(h->dataset, h->type, memory, space, H5P_DEFAULT, data) >= 0;
    sagemem_status status =
        done ? SAGEMEM_OK : smi_hdf5_failed(call, smi_hdf5_name(h), write ? "writing records" : "reading records");
    smi_hdf5_drop(space);
    smi_hdf5_drop(memory);
    return status;
}

static sagemem_status smi_hdf5_extend(const smi_hdf5 *h, uint64_t count, const char *call) {
    hsize_t size = h->base + count;
    if (!smi_hdf5_fails() && H5Dset_extent(h->dataset, &size) >= 0) return SAGEMEM_OK;
    return smi_hdf5_failed(call, smi_hdf5_name(h), "making it longer");
}

/* Writes over whole records, or parts of them. */
static sagemem_status smi_hdf5_rewrite(smi_hdf5 *h, const char *data, size_t size, uint64_t offset, const char *call) {
    char *room = h->part + h->record;
    sagemem_status status = SAGEMEM_OK;
    for (size_t n; status == SAGEMEM_OK && size > 0; data += n, size -= n, offset += n) {
        uint64_t record = offset / h->record;
        size_t within = (size_t)(offset % h->record), whole = size / h->record;
        n = within == 0 && whole > 0 ? whole * h->record : size < h->record - within ? size : h->record - within;
        if (n >= h->record) {
            status = smi_hdf5_move(h, true, record, whole, (void *)(uintptr_t)data, call);
            continue;
        }
        status = smi_hdf5_move(h, false, record, 1, room, call);
        memcpy(room + within, data, n);
        if (status == SAGEMEM_OK) status = smi_hdf5_move(h, true, record, 1, room, call);
    }
    return status;
}

/* Appends from byte `within` of the fraction on. First all that can fail. */
static sagemem_status smi_hdf5_append(smi_hdf5 *h, const char *data, size_t size, size_t within, const char *call) {
    size_t first = within > 0 && size >= h->record - within ? h->record - within : 0; /* completes the fraction */
    size_t whole = within == 0 || first > 0 ? (size - first) / h->record : 0;
    uint64_t more = whole + (first > 0 ? 1 : 0);
    char *room = h->part + h->record;
    if (more > 0) {
        sagemem_status status = smi_hdf5_extend(h, h->count + more, call);
        if (status != SAGEMEM_OK) return status;
        if (first > 0) {
            memcpy(room, h->part, within);
            memcpy(room + within, data, first);
            status = smi_hdf5_move(h, true, h->count, 1, room, call);
        }
        if (status == SAGEMEM_OK && whole > 0)
            status = smi_hdf5_move(h, true, h->count + more - whole, whole, (void *)(uintptr_t)(data + first), call);
        if (status != SAGEMEM_OK) {
            hsize_t before = h->base + h->count;
            (void)H5Dset_extent(h->dataset, &before);
            return status;
        }
        h->count += more;
        h->part_bytes = within = 0;
    }
    size_t rest = size - first - whole * h->record;
    memcpy(h->part + within, data + (size - rest), rest);
    if (within + rest > h->part_bytes) h->part_bytes = within + rest;
    return SAGEMEM_OK;
}

static sagemem_status smi_hdf5_put(smi_hdf5 *h, const char *data, size_t size, uint64_t offset, const char *call) {
    uint64_t whole = h->count * h->record, end = whole + h->part_bytes;
    size_t old = offset >= whole ? 0 : whole - offset < size ? (size_t)(whole - offset) : size;
    if (offset > end)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s has %llu bytes of records: writing at %llu would leave a hole",
                        smi_hdf5_name(h), (unsigned long long)end, (unsigned long long)offset);
    sagemem_status status = smi_hdf5_rewrite(h, data, old, offset, call);
    if (status != SAGEMEM_OK || old == size) return status;
    return smi_hdf5_append(h, data + old, size - old, (size_t)(offset + old - whole), call);
}

static sagemem_status smi_hdf5_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    sagemem_status status;
    H5E_BEGIN_TRY { status = smi_hdf5_put((smi_hdf5 *)ctx, (const char *)data, size, offset, "sagemem_write"); }
    H5E_END_TRY
    return status;
}

/* Whole records go straight to where they are wanted; a part of one comes from the copy of it. */
static sagemem_status smi_hdf5_get(smi_hdf5 *h, char *to, size_t size, uint64_t offset, size_t *got, const char *call) {
    uint64_t record = offset / h->record;
    size_t within = (size_t)(offset % h->record);
    *got = 0;
    if (record >= h->count) return SAGEMEM_OK;
    if (within == 0 && size >= h->record) {
        uint64_t n = size / h->record < h->count - record ? size / h->record : h->count - record;
        sagemem_status status = smi_hdf5_move(h, false, record, n, to, call);
        if (status == SAGEMEM_OK) *got = (size_t)n * h->record;
        return status;
    }
    if (h->read != record) {
        h->read = UINT64_MAX;
        sagemem_status status = smi_hdf5_move(h, false, record, 1, h->part, call);
        if (status != SAGEMEM_OK) return status;
        h->read = record;
    }
    *got = size < h->record - within ? size : h->record - within;
    memcpy(to, h->part + within, *got);
    return SAGEMEM_OK;
}

static sagemem_status smi_hdf5_read(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    sagemem_status status;
    H5E_BEGIN_TRY { status = smi_hdf5_get((smi_hdf5 *)ctx, (char *)to, size, offset, got, "sagemem_read"); }
    H5E_END_TRY
    return status;
}

/* -- HDF5: the end. */

static void smi_hdf5_end(smi_object *o) {
    smi_hdf5 *h = (smi_hdf5 *)o;
    bool ours = h->forks == smi_os_forks; /* what HDF5 keeps for the file is the parent's to write */
    H5E_BEGIN_TRY {
        if (ours) smi_hdf5_drop(h->type);
        if (ours) smi_hdf5_drop(h->dataset);
    }
    H5E_END_TRY
    smi_free_slow(h->part, smi_nowhere, "dataset");
}

static size_t smi_hdf5_check(const smi_object *o, const char *call) {
    const smi_hdf5 *h = (const smi_hdf5 *)o;
    smi_check_ctx c = {call, 0};
    if (h->part_bytes < h->record && sagemem_size(h->part) >= 2 * h->record) return 0;
    smi_damage(&c, "a dataset is damaged: something wrote over the library's own memory");
    return c.damaged;
}

static sagemem_status smi_hdf5_close(void *ctx) {
    const char *call = "sagemem_writer_close";
    smi_hdf5 *h = (smi_hdf5 *)ctx;
    if (!smi_object_enter(h, &smi_hdf5_kind, call)) return smi_mine.error.status;
    smi_domain *heap = h->object.domain->base;
    sagemem_status status = SAGEMEM_OK;
    if (h->forks == smi_os_forks) {
        H5E_BEGIN_TRY {
            if (smi_hdf5_fails() || H5Fflush(h->dataset, H5F_SCOPE_LOCAL) < 0)
                status = smi_hdf5_failed(call, smi_hdf5_name(h), "bringing records to the file");
        }
        H5E_END_TRY
    }
    if (status == SAGEMEM_OK && h->part_bytes > 0)
        status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call,
                          "%.60s: what was written ends with %zu bytes of a record of %zu: they are not in the dataset",
                          smi_hdf5_name(h), h->part_bytes, h->record);
    smi_object_end(&h->object);
    smi_leave(heap);
    return status;
}

static sagemem_status smi_hdf5_close_source(void *ctx) {
    const smi_hdf5 *h = (const smi_hdf5 *)ctx;
    if (!smi_object_enter(h, &smi_hdf5_kind, "sagemem_reader_close")) return smi_mine.error.status;
    smi_domain *heap = h->object.domain->base;
    smi_object_end((smi_object *)(uintptr_t)&h->object);
    smi_leave(heap);
    return SAGEMEM_OK;
}

/* -- HDF5: types. */

/* Elements of it lie in memory as a whole: neither sequences nor texts of variable length, at whatever depth. */
static bool smi_hdf5_is_flat(hid_t type) {
    bool flat = true;
    switch (H5Tget_class(type)) {
    case H5T_VLEN: return false;
    case H5T_STRING: return H5Tis_variable_str(type) == 0;
    case H5T_REFERENCE: return false;
    case H5T_ARRAY: {
        hid_t element = H5Tget_super(type);
        flat = smi_hdf5_is_flat(element);
        smi_hdf5_drop(element);
        return flat;
    }
    case H5T_COMPOUND:
        for (int i = 0, n = H5Tget_nmembers(type); i < n && flat; i++) {
            hid_t member = H5Tget_member_type(type, (unsigned)i);
            flat = smi_hdf5_is_flat(member);
            smi_hdf5_drop(member);
        }
        return flat;
    default: return true;
    }
}

/* Of a type whose records can be moved, its size; 0: the error is set. */
static size_t smi_hdf5_size_of(hid_t type, const char *name, const char *call) {
    if (H5Iget_type(type) != H5I_DATATYPE) {
        smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: %lld is no type of HDF5; pass a compound with the members of a record", name,
                 (long long)type);
        return 0;
    }
    if (!smi_hdf5_is_flat(type)) {
        smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                 "%.60s: its records have members of variable length, or references: these are not bytes that could be copied",
                 name);
        return 0;
    }
    size_t size = H5Tget_size(type);
    if (size == 0) smi_hdf5_failed(call, name, "asking for a record's size");
    return size;
}

/* The type of records in the file. */
static hid_t smi_hdf5_file_type(const sagemem_hdf5_desc *desc) {
    hid_t type = H5Tcopy(desc->file_type != 0 ? desc->file_type : desc->type);
    if (type >= 0 && desc->file_type == 0 && H5Tget_class(type) == H5T_COMPOUND && H5Tpack(type) < 0) {
        smi_hdf5_drop(type);
        return -1;
    }
    return type;
}

/* -- HDF5: attributes. */

static sagemem_status smi_hdf5_put_attribute(hid_t object, const char *name, hid_t type, const void *value, const char *call) {
    bool fails = smi_hdf5_fails();
    htri_t there = fails ? -1 : H5Aexists(object, name);
    hid_t space = -1, attribute = -1;
    bool done = there == 0 || (there > 0 && H5Adelete(object, name) >= 0);
    if (done) done = (space = H5Screate(H5S_SCALAR)) >= 0;
    if (done) done = (attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT)) >= 0;
    if (done) done = H5Awrite(attribute, type, value) >= 0;
    sagemem_status status = done ? SAGEMEM_OK : smi_hdf5_failed(call, name, "writing this attribute");
    smi_hdf5_drop(attribute);
    smi_hdf5_drop(space);
    return status;
}

/* A type for a text of so many bytes; H5T_VARIABLE: of any number. */
static hid_t smi_hdf5_text_type(size_t size) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && H5Tset_size(type, size) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0) return type;
    smi_hdf5_drop(type);
    return -1;
}

/* The texts for the members that have one, side by side: as a type, and as bytes if there is room for them. */
static bool smi_hdf5_lay_out(const sagemem_hdf5_desc *desc, hid_t type, char *room) {
    size_t at = 0;
    for (int i = 0, n = H5Tget_nmembers(desc->type); i < n; i++) {
        const char *unit = desc->units[i];
        if (unit == NULL || unit[0] == '\0') continue;
        char *name = H5Tget_member_name(desc->type, (unsigned)i);
        hid_t text = smi_hdf5_text_type(strlen(unit) + 1);
        bool done = name != NULL && text >= 0 && H5Tinsert(type, name, at, text) >= 0;
        if (name != NULL) (void)H5free_memory(name);
        smi_hdf5_drop(text);
        if (!done) return false;
        memcpy(room + at, unit, strlen(unit) + 1);
        at += strlen(unit) + 1;
    }
    return true;
}

static sagemem_status smi_hdf5_put_units(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call) {
    size_t size = 0;
    bool compound = H5Tget_class(desc->type) == H5T_COMPOUND;
    if (desc->units == NULL) return SAGEMEM_OK;
    if (!compound) {
        hid_t text = desc->units[0] != NULL ? smi_hdf5_text_type(strlen(desc->units[0]) + 1) : 0;
        sagemem_status status = text > 0 ? smi_hdf5_put_attribute(h->dataset, "units", text, desc->units[0], call) : SAGEMEM_OK;
        smi_hdf5_drop(text);
        return status;
    }
    for (int i = 0, n = H5Tget_nmembers(desc->type); i < n; i++)
        if (desc->units[i] != NULL && desc->units[i][0] != '\0') size += strlen(desc->units[i]) + 1;
    if (size == 0) return SAGEMEM_OK;
    char *room = (char *)smi_object_alloc(&h->object, 16, size, desc->tag, false, call);
    if (room == NULL) return smi_mine.error.status;
    hid_t type = H5Tcreate(H5T_COMPOUND, size);
    bool done = !smi_hdf5_fails() && type >= 0 && smi_hdf5_lay_out(desc, type, room);
    sagemem_status status = done ? smi_hdf5_put_attribute(h->dataset, "units", type, room, call)
                                 : smi_hdf5_failed(call, desc->name, "laying out its units");
    smi_hdf5_drop(type);
    smi_free_slow(room, smi_nowhere, call);
    return status;
}

SAGEMEM_API sagemem_status sagemem_hdf5_attribute(hid_t object, const char *name, hid_t type, const void *value) {
    const char *call = "sagemem_hdf5_attribute";
    sagemem_status status;
    if (name == NULL || name[0] == '\0' || value == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "an attribute needs a name and a value");
    H5E_BEGIN_TRY {
        if (H5Iis_valid(object) > 0 && H5Iget_type(type) == H5I_DATATYPE)
            status = smi_hdf5_put_attribute(object, name, type, value, call);
        else
            status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: %lld is no open object, or %lld no type of HDF5", name,
                              (long long)object, (long long)type);
    }
    H5E_END_TRY
    return status;
}

SAGEMEM_API sagemem_status sagemem_hdf5_attribute_text(hid_t object, const char *name, const char *text) {
    const char *call = "sagemem_hdf5_attribute_text";
    sagemem_status status;
    if (name == NULL || name[0] == '\0' || text == NULL)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "an attribute needs a name and a text");
    H5E_BEGIN_TRY {
        hid_t type = smi_hdf5_text_type(H5T_VARIABLE);
        if (H5Iis_valid(object) > 0 && type >= 0) status = smi_hdf5_put_attribute(object, name, type, &text, call);
        else status = smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: %lld is no open object of HDF5", name, (long long)object);
        smi_hdf5_drop(type);
    }
    H5E_END_TRY
    return status;
}

/* -- HDF5: the beginning. */

/* Whether something has that name. HDF5 fails where a group on the way is missing, so each is asked for. */
static htri_t smi_hdf5_has(hid_t location, const char *name) {
    char front[SMI_HDF5_NAME];
    htri_t there = 1;
    for (size_t i = 0; there > 0 && i <= strlen(name); i++) {
        bool ends = name[i] == '\0' || name[i] == '/';
        if (!ends || i == 0 || name[i - 1] == '/') continue;
        memcpy(front, name, i);
        front[i] = '\0';
        there = H5Lexists(location, front, H5P_DEFAULT);
    }
    return there;
}

static sagemem_status smi_hdf5_desc_check(const sagemem_hdf5_desc *desc, const void *out, const char *call) {
    if (desc == NULL || out == NULL || desc->name == NULL || strspn(desc->name, "/") == strlen(desc->name) ||
        strlen(desc->name) >= SMI_HDF5_NAME)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "which dataset? Pass a desc with a name of 1 to %d bytes, and where to put it",
                        SMI_HDF5_NAME - 1);
    H5I_type_t kind = H5Iget_type(desc->location);
    if (kind != H5I_FILE && kind != H5I_GROUP)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: location %lld is no open file or group of HDF5", desc->name,
                        (long long)desc->location);
    if (desc->deflate < 0 || desc->deflate > 9)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: deflate %d; use 1 to 9, or 0", desc->name, desc->deflate);
    if (desc->deflate > 0 && H5Zfilter_avail(H5Z_FILTER_DEFLATE) <= 0)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "%.60s: this HDF5 was built without deflate", desc->name);
    return smi_tag_known(desc->tag, call) ? SAGEMEM_OK : SAGEMEM_E_ARGUMENT;
}

/* How a new dataset is laid out; -1: it cannot be. No fill values: every record is written before it can be seen. */
static hid_t smi_hdf5_layout(const sagemem_hdf5_desc *desc, uint64_t chunk) {
    hsize_t records = chunk;
    hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
    bool done = layout >= 0 && H5Pset_chunk(layout, 1, &records) >= 0 && H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER) >= 0;
    if (done && desc->shuffle) done = H5Pset_shuffle(layout) >= 0;
    if (done && desc->deflate > 0) done = H5Pset_deflate(layout, (unsigned)desc->deflate) >= 0;
    if (done) return layout;
    smi_hdf5_drop(layout);
    return -1;
}

/* How a dataset is used; -1: it cannot be. Records come in bulk and in order: without a cache they go straight to the file, which
 * is faster, and HDF5 fails when it is given them, not when it is closed. Compressed chunks need it, to be filled. */
static hid_t smi_hdf5_access(bool cached) {
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    if (access < 0 || cached || H5Pset_chunk_cache(access, 0, 0, H5D_CHUNK_CACHE_W0_DEFAULT) >= 0) return access;
    smi_hdf5_drop(access);
    return -1;
}

static sagemem_status smi_hdf5_make(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call) {
    hsize_t none = 0, any = H5S_UNLIMITED;
    hid_t type = smi_hdf5_file_type(desc), layout = -1, links = -1, space = -1, access = -1;
    size_t bytes = type >= 0 ? H5Tget_size(type) : 0;
    h->chunk = desc->chunk_records != 0 ? desc->chunk_records : bytes > 0 && bytes < SMI_HDF5_CHUNK ? SMI_HDF5_CHUNK / bytes : 1;
    if (bytes > 0 && h->chunk > UINT32_MAX / bytes) { /* HDF5 counts a chunk's bytes in 32 bits */
        smi_hdf5_drop(type);
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: chunks of %llu records of %zu bytes are more than 4 GiB", desc->name,
                        (unsigned long long)h->chunk, bytes);
    }
    bool done = bytes > 0 && !smi_hdf5_fails() && (layout = smi_hdf5_layout(desc, h->chunk)) >= 0 &&
                (links = H5Pcreate(H5P_LINK_CREATE)) >= 0 && H5Pset_create_intermediate_group(links, 1) >= 0 &&
                H5Pset_char_encoding(links, H5T_CSET_UTF8) >= 0 && (space = H5Screate_simple(1, &none, &any)) >= 0 &&
                (access = smi_hdf5_access(desc->deflate > 0 || desc->shuffle)) >= 0;
    if (done) h->dataset = H5Dcreate2(desc->location, desc->name, type, space, links, layout, access);
    sagemem_status status = done && h->dataset >= 0 ? SAGEMEM_OK : smi_hdf5_failed(call, desc->name, "making the dataset");
    h->makes = status == SAGEMEM_OK;
    smi_hdf5_drop(access);
    smi_hdf5_drop(space);
    smi_hdf5_drop(links);
    smi_hdf5_drop(layout);
    smi_hdf5_drop(type);
    return status == SAGEMEM_OK ? smi_hdf5_put_units(h, desc, call) : status;
}

/* What a dataset that is there is like. */
typedef struct smi_hdf5_shape {
    hsize_t size, most;
    uint64_t chunk;
} smi_hdf5_shape;
static sagemem_status smi_hdf5_look(smi_hdf5 *h, const sagemem_hdf5_desc *desc, smi_hdf5_shape *shape, const char *call) {
    memset(shape, 0, sizeof *shape);
    if (!smi_hdf5_fails()) h->dataset = H5Dopen2(desc->location, desc->name, H5P_DEFAULT);
    hid_t space = h->dataset > 0 ? H5Dget_space(h->dataset) : -1, layout = h->dataset > 0 ? H5Dget_create_plist(h->dataset) : -1;
    hsize_t chunk = 0;
    sagemem_status status = SAGEMEM_OK;
    if (space < 0 || layout < 0) status = smi_hdf5_failed(call, desc->name, "opening the dataset");
    else if (H5Sget_simple_extent_ndims(space) != 1)
        status = smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "%.60s has %d dimensions; records stand in one", desc->name,
                          H5Sget_simple_extent_ndims(space));
    else if (H5Sget_simple_extent_dims(space, &shape->size, &shape->most) < 0)
        status = smi_hdf5_failed(call, desc->name, "asking for its size");
    else if (H5Pget_layout(layout) == H5D_CHUNKED && H5Pget_chunk(layout, 1, &chunk) == 1) shape->chunk = chunk;
    smi_hdf5_drop(layout);
    smi_hdf5_drop(space);
    return status;
}

/* Goes on behind a dataset's records. */
static sagemem_status smi_hdf5_continue(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call) {
    smi_hdf5_shape shape;
    sagemem_status status = smi_hdf5_look(h, desc, &shape, call);
    if (status != SAGEMEM_OK) return status;
    if (shape.most != H5S_UNLIMITED)
        return smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call, "%.60s cannot grow: write to one that was made to", desc->name);
    hid_t there = H5Dget_type(h->dataset), wanted = smi_hdf5_file_type(desc);
    if (there < 0 || wanted < 0) status = smi_hdf5_failed(call, desc->name, "looking at its type");
    else if (H5Tequal(there, wanted) <= 0)
        status = smi_fail(SAGEMEM_E_UNSUPPORTED, 0, call,
                          "the records of %.60s are of another type; pass that of the file as file_type", desc->name);
    smi_hdf5_drop(there);
    smi_hdf5_drop(wanted);
    h->base = shape.size;
    h->chunk = shape.chunk;
    return status;
}

/* Room for two records, and their type in memory. */
static sagemem_status smi_hdf5_prepare(smi_hdf5 *h, hid_t type, const sagemem_hdf5_desc *desc, const char *call) {
    h->record = smi_hdf5_size_of(type, desc->name, call);
    if (h->record == 0) return smi_mine.error.status;
    h->type = H5Tcopy(type);
    if (h->type < 0) return smi_hdf5_failed(call, desc->name, "copying its type");
    if (h->record > SIZE_MAX / 4)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s: records of %zu bytes are too large", desc->name, h->record);
    h->part = (char *)smi_object_alloc(&h->object, 64, 2 * h->record, desc->tag, true, call);
    return h->part != NULL ? SAGEMEM_OK : smi_mine.error.status;
}

static sagemem_status smi_hdf5_begin_sink(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call) {
    sagemem_status status = smi_hdf5_prepare(h, desc->type, desc, call);
    if (status == SAGEMEM_OK && desc->file_type != 0 && smi_hdf5_size_of(desc->file_type, desc->name, call) == 0)
        status = smi_mine.error.status;
    if (status != SAGEMEM_OK) return status;
    htri_t there = smi_hdf5_fails() ? -1 : smi_hdf5_has(desc->location, desc->name);
    if (there < 0) return smi_hdf5_failed(call, desc->name, "looking for it");
    if (there > 0 && !desc->append)
        return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "%.60s is there; set append to go on behind it, or H5Ldelete it first",
                        desc->name);
    return there > 0 ? smi_hdf5_continue(h, desc, call) : smi_hdf5_make(h, desc, call);
}

static sagemem_status smi_hdf5_begin_source(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call) {
    smi_hdf5_shape shape;
    htri_t there = smi_hdf5_fails() ? -1 : smi_hdf5_has(desc->location, desc->name);
    if (there < 0) return smi_hdf5_failed(call, desc->name, "looking for it");
    if (there == 0) return smi_fail(SAGEMEM_E_NOT_FOUND, 0, call, "there is no dataset %.60s; name one of the file", desc->name);
    sagemem_status status = smi_hdf5_look(h, desc, &shape, call);
    if (status != SAGEMEM_OK) return status;
    h->count = shape.size;
    h->chunk = shape.chunk;
    h->read = UINT64_MAX;
    hid_t stored = desc->type == 0 ? H5Dget_type(h->dataset) : 0;
    hid_t type = desc->type == 0 ? H5Tget_native_type(stored, H5T_DIR_ASCEND) : desc->type;
    status = type < 0 ? smi_hdf5_failed(call, desc->name, "looking at its type") : smi_hdf5_prepare(h, type, desc, call);
    if (desc->type == 0) smi_hdf5_drop(type);
    smi_hdf5_drop(stored);
    return status;
}

/* A sink's or a source's object; NULL: the error is set, and the file as it was. */
static smi_hdf5 *smi_hdf5_begin(const sagemem_hdf5_desc *desc, const void *out,
                                sagemem_status (*begin_fn)(smi_hdf5 *h, const sagemem_hdf5_desc *desc, const char *call),
                                const char *call) {
    if (smi_hdf5_desc_check(desc, out, call) != SAGEMEM_OK) return NULL;
    smi_hdf5 *h = (smi_hdf5 *)smi_object_create(desc->heap, &smi_hdf5_kind, NULL, call);
    if (h == NULL) return NULL;
    smi_domain *heap = h->object.domain->base;
    h->forks = smi_os_forks;
    h->object.name = smi_intern(desc->name);
    bool begun = h->object.name != NULL && begin_fn(h, desc, call) == SAGEMEM_OK;
    if (!begun && h->makes) (void)H5Ldelete(desc->location, desc->name, H5P_DEFAULT);
    if (!begun) smi_object_end(&h->object);
    smi_leave(heap);
    return begun ? h : NULL;
}

SAGEMEM_API sagemem_status sagemem_hdf5_sink(const sagemem_hdf5_desc *desc, sagemem_sink *out) {
    smi_hdf5 *h;
    smi_start();
    H5E_BEGIN_TRY { h = smi_hdf5_begin(desc, out, smi_hdf5_begin_sink, "sagemem_hdf5_sink"); }
    H5E_END_TRY
    if (h == NULL) return smi_mine.error.status;
    out->write_fn = smi_hdf5_write;
    out->close_fn = smi_hdf5_close;
    out->ctx = h;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_hdf5_source(const sagemem_hdf5_desc *desc, sagemem_input *out) {
    smi_hdf5 *h;
    smi_start();
    H5E_BEGIN_TRY { h = smi_hdf5_begin(desc, out, smi_hdf5_begin_source, "sagemem_hdf5_source"); }
    H5E_END_TRY
    if (h == NULL) return smi_mine.error.status;
    out->read_fn = smi_hdf5_read;
    out->close_fn = smi_hdf5_close_source;
    out->ctx = h;
    out->seekable = true;
    return SAGEMEM_OK;
}

SAGEMEM_API sagemem_status sagemem_hdf5_get_info(const void *ctx, sagemem_hdf5_info *out) {
    const char *call = "sagemem_hdf5_get_info";
    const smi_hdf5 *h = (const smi_hdf5 *)ctx;
    if (out == NULL) return smi_fail(SAGEMEM_E_ARGUMENT, 0, call, "out is NULL: pass the address of a sagemem_hdf5_info");
    if (!smi_object_enter(h, &smi_hdf5_kind, call)) return smi_mine.error.status;
    out->dataset = h->dataset;
    out->type = h->type;
    out->record_bytes = h->record;
    out->records = h->base + h->count;
    out->chunk_records = h->chunk;
    smi_object_leave(&h->object);
    return SAGEMEM_OK;
}

#endif /* SAGEMEM_WITH_HDF5 */

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
#undef SMI_HOT
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
