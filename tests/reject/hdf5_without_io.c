// expect: sagemem: SAGEMEM_WITH_HDF5 needs SAGEMEM_WITH_IO 1 (datasets are written by writers and read by readers)
#define SAGEMEM_WITH_HDF5 1
#define SAGEMEM_WITH_IO 0
#include "sagemem.h"
