/* SPDX-License-Identifier: Apache-2.0 */
/* device_host.h - the "host" device: device.h's ops in plain C over ordinary memory, the specification that
 * the card's kernels are tested against.
 *
 * One op, one file: host_<op>.c defines its entry of the table as a call of host_run, which runs the op at
 * once or, between capture_begin and capture_end, keeps it with its arguments for the graph. Arithmetic is
 * f32 with f64 sums where a sum is long. What an op rounds to fp16 on the card it rounds here, too.
 */
#ifndef LECTERN_KERNELS_DEVICE_HOST_DEVICE_HOST_H
#define LECTERN_KERNELS_DEVICE_HOST_DEVICE_HOST_H

#include "kernels/device.h"

struct host_device;

/* Runs op(d, args) now, or records it with a copy of the `bytes` of args. */
void host_run(struct device *d, void (*op)(struct device *d, const void *args), const void *args,
              size_t bytes);

/* Keeps a failure for the next call that returns an int. */
void host_keep(struct device *d, enum err_code code, const char *what);

int host_weight_create(struct device *d, enum device_weight_format format, size_t K,
                       const struct device_weight_part *parts, size_t n_parts, enum device_weight_order order,
                       struct device_weight **out, struct err *e);
int host_weight_random(struct device *d, enum device_weight_format format, size_t N, size_t K, uint64_t seed,
                       struct device_weight **out, struct err *e);
void host_weight_free(struct device *d, struct device_weight *w);
size_t host_weight_bytes(const struct device_weight *w);
size_t host_linear_scratch_bytes(struct device *d, size_t T, size_t K_max, size_t N_max);
void host_linear(struct device *d, const struct device_linear_args *a);

void host_embed(struct device *d, const struct device_embed_args *a);
void host_argmax(struct device *d, const struct device_argmax_args *a);

size_t host_attend_decode_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens,
                                        int mass);
void host_attend_decode(struct device *d, const struct device_attend_decode_args *a);
size_t host_attend_prefill_scratch_bytes(struct device *d, const struct device_kv *kv, size_t T);
void host_attend_prefill(struct device *d, const struct device_attend_prefill_args *a);
size_t host_select_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens);
void host_select(struct device *d, const struct device_select_args *a);

#endif
