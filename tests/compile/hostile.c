/* A program whose macros have ordinary words for names, as real ones do: debugging allocators, old system headers,
 * plug-in interfaces. HOSTILE 1: macros with arguments; 2: plain ones. The declarations must not care. */
#if HOSTILE == 1
#define alloc(x) ]nonsense alloc[
#define free(x) ]nonsense free[
#define malloc(x) ]nonsense malloc[
#define calloc(x, y) ]nonsense calloc[
#define realloc(x, y) ]nonsense realloc[
#define strdup(x) ]nonsense strdup[
#define min(x, y) ]nonsense min[
#define max(x, y) ]nonsense max[
#define small(x) ]nonsense small[
#define near(x) ]nonsense near[
#define far(x) ]nonsense far[
#define interface(x) ]nonsense interface[
#define printf(...) ]nonsense printf[
#define check(x) ]nonsense check[
#elif HOSTILE == 2
#define alloc ]nonsense alloc[
#define free ]nonsense free[
#define malloc ]nonsense malloc[
#define calloc ]nonsense calloc[
#define realloc ]nonsense realloc[
#define strdup ]nonsense strdup[
#define min ]nonsense min[
#define max ]nonsense max[
#define small ]nonsense small[
#define near ]nonsense near[
#define far ]nonsense far[
#define interface ]nonsense interface[
#define printf ]nonsense printf[
#define unused ]nonsense unused[
#else
#error "hostile.c: HOSTILE must be 1 or 2"
#endif

#include "sagemem.h"

int hostile_used(void);
int hostile_used(void) {
    return sagemem_last_error()->status == SAGEMEM_OK;
}
