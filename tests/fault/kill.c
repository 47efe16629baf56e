/* A process that writes atomic files for ever is killed, a few hundred times: at a random moment, before or after a random system
 * call of the library. Each time the file is a whole one that it wrote, the first or a later; whoever writes next removes what
 * was left beside it. SAGEMEM_KILLS in the environment: how often [200]; SAGEMEM_SEED: when. */
#include "calls.h"

enum { WORDS = 5000, LINES = 7 };

static char path[100];
static uint64_t *progress; /* shared: files that are in their place, for certain; generation under way */
static uint64_t calls_left;

static void die_at_a_call(void) {
    if (__atomic_fetch_sub(&calls_left, 1, __ATOMIC_RELAXED) == 0) raise(SIGKILL);
}

/* The n-th file: a header that is patched at the end, and words that name the generation and the place. */
static uint64_t word_of(uint64_t generation, uint64_t i) { return generation * 1000003u + i; }
static void write_one(uint64_t generation) {
    sagemem_writer_desc d = {0};
    d.path = path;
    d.atomic = true;
    d.initial_bytes = 3000;
    d.background = generation % 2 == 0;
    d.sync = (sagemem_sync)(generation % 3);
    sagemem_writer *w = sagemem_writer_open(&d);
    check(w != NULL);
    uint64_t header = UINT64_MAX;
    ok(sagemem_write(w, &header, sizeof header));
    for (uint64_t i = 1; i < WORDS + generation % LINES; i++) {
        uint64_t word = word_of(generation, i);
        ok(sagemem_write(w, &word, sizeof word));
    }
    header = word_of(generation, 0);
    ok(sagemem_writer_patch(w, 0, &header, sizeof header));
    ok(sagemem_writer_close(w));
}

static void write_for_ever(uint64_t first, uint64_t calls) {
    static const plan none = {CALLS, CALLS, 0, 0, 0, 0, false};
    calls_left = calls;
    at_each_call = calls > 0 ? die_at_a_call : NULL;
    arm(none);
    for (uint64_t generation = first;; generation++) {
        __atomic_store_n(&progress[1], generation, __ATOMIC_SEQ_CST);
        write_one(generation);
        __atomic_store_n(&progress[0], generation, __ATOMIC_SEQ_CST);
    }
}

/* Which generation the file is: a whole one. */
static uint64_t generation_of(void) {
    bytes b = slurp(path);
    uint64_t first, word;
    check(b.size >= sizeof first);
    memcpy(&first, b.at, sizeof first);
    uint64_t generation = first / 1000003u;
    check(first == word_of(generation, 0) && b.size == 8 * (WORDS + generation % LINES));
    for (uint64_t i = 1; i < b.size / 8; i++) {
        memcpy(&word, b.at + 8 * i, sizeof word);
        check(word == word_of(generation, i));
    }
    free(b.at);
    return generation;
}

/* One process that writes and dies; true if it left something beside the file. */
static bool one_kill(chance *luck, bool at_a_call) {
    uint64_t before = generation_of(), calls = 1 + chance_below(luck, 120);
    size_t pause = chance_below(luck, 3000);
    progress[0] = progress[1] = before;
    fflush(NULL);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        write_for_ever(before + 1, at_a_call ? calls : 0);
    }
    if (!at_a_call) {
        usleep((useconds_t)pause);
        kill(pid, SIGKILL);
    }
    int status;
    check(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    uint64_t after = generation_of();
    check(after == progress[0] || after == progress[1]); /* closed means there; not closed: this one, or the one before */
    bool left = names_with(".sagemem-") > 0;
    check(names_with(".sagemem-") <= 1);
    if (!left) return false;
    sagemem_writer_desc d = {0};
    d.path = path;
    d.atomic = true;
    sagemem_writer *w = sagemem_writer_open(&d);
    check(w != NULL && names_with(".sagemem-") == 1); /* its own */
    sagemem_writer_abandon(w);
    check(names_with(".sagemem-") == 0 && generation_of() == after);
    return true;
}

static void the_file_is_the_old_one_or_the_new(void **state) {
    (void)state;
    const char *asked = getenv("SAGEMEM_KILLS");
    unsigned long kills = asked != NULL ? strtoul(asked, NULL, 10) : on_valgrind() ? 10 : 200, leftovers = 0;
    chance luck = {seed};
    progress = (uint64_t *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(progress != MAP_FAILED);
    snprintf(path, sizeof path, "%s", in_place("killed"));
    write_one(1);
    for (unsigned long i = 0; i < kills; i++) {
        snprintf(doing, sizeof doing, "kill %lu of %lu, seed %llu", i + 1, kills, UINT(seed));
        leftovers += one_kill(&luck, i % 2 == 0);
    }
    printf("%lu processes were killed, %lu left a file that the next one removed; %llu generations\n", kills, leftovers,
           UINT(generation_of()));
    check(leftovers > kills / 4 && leftovers < kills);
    munmap(progress, 4096);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_file_is_the_old_one_or_the_new, before_each, after_each)};
    return cmocka_run_group_tests(tests, begin, finish);
}
