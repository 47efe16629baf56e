// expect: sagemem: SAGEMEM_WITH_HDF5 must be 0 or 1
#define SAGEMEM_WITH_HDF5 2
#include "sagemem.h"
