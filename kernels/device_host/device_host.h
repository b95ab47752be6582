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

/* A new host device. */
int host_open(struct device **out, struct err *e);
extern const struct device_ops host_ops;

/* Runs op(d, args) now, or records it with a copy of the `bytes` of args: what args points to in host memory
 * (kv, list, audit) must be copied into args by the op's file and pointed to again when the copy runs. */
void host_run(struct device *d, void (*op)(struct device *d, const void *args), const void *args,
              size_t bytes);

/* Keeps a failure for the next call that returns an int; the first wins. */
void host_keep(struct device *d, enum err_code code, const char *what);

/* host_device.c: the kept failure, if any, into e; it is forgotten. */
int host_kept(struct device *d, struct err *e);

void host_close(struct device *d);
void host_info(struct device *d, struct device_info *out);
int host_measure(struct device *d, enum device_limit what, double *per_second, struct err *e);
int host_alloc(struct device *d, size_t bytes, void **out, struct err *e);
void host_release(struct device *d, void *p);
int host_alloc_host(struct device *d, size_t bytes, void **host, void **device_view, struct err *e);
void host_release_host(struct device *d, void *host);
int host_sync(struct device *d, enum device_queue q, struct err *e);
int host_capture_begin(struct device *d, struct err *e);
int host_capture_end(struct device *d, struct device_graph **out, struct err *e);
void host_graph_launch(struct device *d, struct device_graph *g);
void host_graph_free(struct device *d, struct device_graph *g);

/* host_queue.c: copies and events. */
void host_upload(struct device *d, enum device_queue q, void *to, const void *from_host, size_t bytes);
void host_download(struct device *d, enum device_queue q, void *to_host, const void *from, size_t bytes);
void host_copy(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes);
void host_fill(struct device *d, enum device_queue q, void *to, int byte, size_t bytes);
int host_event_create(struct device *d, struct device_event **out, struct err *e);
void host_event_free(struct device *d, struct device_event *v);
void host_event_record(struct device *d, enum device_queue q, struct device_event *v);
void host_event_wait(struct device *d, enum device_queue q, struct device_event *v);
int host_event_done(struct device *d, struct device_event *v);
int host_event_sync(struct device *d, struct device_event *v, struct err *e);
double host_event_ms(struct device *d, struct device_event *from, struct device_event *to);

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
