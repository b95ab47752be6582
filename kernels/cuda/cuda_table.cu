/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_table.cu - the ops of the card; filled once, when the library is loaded. */
#include "kernels/cuda/cuda_device.h"

static struct device_ops make(void)
{
    struct device_ops t = {};
    t.name = "cuda";
    t.close = cuda_close;
    t.info = cuda_info;
    t.measure = cuda_measure;
    t.alloc = cuda_alloc;
    t.release = cuda_release;
    t.alloc_host = cuda_alloc_host;
    t.release_host = cuda_release_host;
    t.upload = cuda_upload;
    t.download = cuda_download;
    t.copy = cuda_copy;
    t.fill = cuda_fill;
    t.event_create = cuda_event_create;
    t.event_free = cuda_event_free;
    t.event_record = cuda_event_record;
    t.event_wait = cuda_event_wait;
    t.event_done = cuda_event_done;
    t.event_sync = cuda_event_sync;
    t.event_ms = cuda_event_ms;
    t.sync = cuda_sync;
    t.capture_begin = cuda_capture_begin;
    t.capture_end = cuda_capture_end;
    t.graph_launch = cuda_graph_launch;
    t.graph_free = cuda_graph_free;
    t.weight_create = cuda_weight_create;
    t.weight_random = cuda_weight_random;
    t.weight_free = cuda_weight_free;
    t.weight_bytes = cuda_weight_bytes;
    t.linear_scratch_bytes = cuda_linear_scratch_bytes;
    t.linear = cuda_linear;
    t.embed = cuda_embed;
    t.argmax = cuda_argmax;
    t.select_scratch_bytes = cuda_select_scratch_bytes;
    t.select = cuda_select;
    t.attend_prefill_scratch_bytes = cuda_attend_prefill_scratch_bytes;
    t.attend_prefill = cuda_attend_prefill;
    t.attend_decode_scratch_bytes = cuda_attend_decode_scratch_bytes;
    t.attend_decode = cuda_attend_decode;
    return t;
}

const struct device_ops cuda_ops = make();
