/* The library as one object file. */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
