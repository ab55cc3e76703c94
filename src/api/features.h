/* Feature maps as arguments: their checks, and the plan that they become. */
#ifndef HEED_API_FEATURES_H
#define HEED_API_FEATURES_H

#include "core/message.h"
#include "mechanisms/features.h"

/* A map among the arguments of a call. */
typedef struct feature_argument {
    const char *name;
    const heed_feature_map *map; /* not NULL */
    int64_t channels, heads;     /* of the rows it is applied to */
    int sizes_only;              /* non-zero: only the shapes of its tensors are looked at */
} feature_argument;

/* The matrices of a layer, by name; NULL where it has none. */
enum { HEED_FEATURE_MATRICES = 5 };
typedef struct feature_matrix {
    const char *name;
    const heed_tensor *tensor;
} feature_matrix;
void heed_feature_matrices(const heed_feature_layer *layer, feature_matrix list[HEED_FEATURE_MATRICES]);

heed_status heed_features_check(heed_message *message, const feature_argument *a);

/* One output against every matrix of a map; NULL for the map is fine. */
heed_status heed_features_check_apart(heed_message *message, const char *out_name, const heed_tensor *out,
                                      const char *name, const heed_feature_map *map);

/* Of checked arguments. */
feature_map heed_feature_plan(const feature_argument *a);

/* The features that come out, of checked arguments. */
int64_t heed_feature_width(const heed_feature_map *map, int64_t channels);

#endif
