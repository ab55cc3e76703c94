#include "bench/variants.h"

#include <string.h>

const variant *const variant_list[] = {&variant_softmax, &variant_gemm, NULL};

const variant *variant_find(const char *name)
{
    for (const variant *const *v = variant_list; *v; v++)
        if (strcmp((*v)->name, name) == 0)
            return *v;
    return NULL;
}
