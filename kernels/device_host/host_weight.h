/* SPDX-License-Identifier: Apache-2.0 */
/* host_weight.h - a weight of the host device, for its linear. */
#ifndef LECTERN_KERNELS_DEVICE_HOST_HOST_WEIGHT_H
#define LECTERN_KERNELS_DEVICE_HOST_HOST_WEIGHT_H

#include "kernels/device_host/device_host.h"

struct device_weight {
    enum device_weight_format format; /* never AUTO */
    size_t N, K;
    float *values; /* [N][K] */
};

#endif
