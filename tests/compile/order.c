/* Awkward places for the include, by the macro ORDER; with -DSAGEMEM_IMPLEMENTATION, the implementation there. */
#if ORDER == 1 /* before all */
#include "sagemem.h"

#include <stdio.h>
#include <sys/mman.h>
#elif ORDER == 2 /* after one small header: the feature macros are fixed from there on */
#include <stdlib.h>

#include "sagemem.h"
#elif ORDER == 3 /* after the header of its own system calls */
#include <sys/mman.h>

#include "sagemem.h"
#elif ORDER == 4 /* after everything it may want itself */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sagemem.h"
#elif ORDER == 5 /* in between */
#include <string.h>

#include "sagemem.h"

#include <sys/mman.h>
#include <unistd.h>
#elif ORDER == 6 /* after limits, with the constants of stdint.h already there */
#include <limits.h>
#include <inttypes.h>

#include "sagemem.h"

#include <assert.h>
#else
#error "order.c: ORDER must be 1 to 6"
#endif

int order_used(void);
int order_used(void) {
    return sagemem_last_error()->status == SAGEMEM_OK;
}
