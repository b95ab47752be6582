/* SPDX-License-Identifier: Apache-2.0 */
/* host_table.c - the host device's ops. */
#include "kernels/device_host/device_host.h"

const struct device_ops host_ops = {
    .name = "host",
    .close = host_close,
    .info = host_info,
    .measure = host_measure,
    .alloc = host_alloc,
    .release = host_release,
    .alloc_host = host_alloc_host,
    .release_host = host_release_host,
    .upload = host_upload,
    .download = host_download,
    .copy = host_copy,
    .fill = host_fill,
    .event_create = host_event_create,
    .event_free = host_event_free,
    .event_record = host_event_record,
    .event_wait = host_event_wait,
    .event_done = host_event_done,
    .event_sync = host_event_sync,
    .event_ms = host_event_ms,
    .sync = host_sync,
    .capture_begin = host_capture_begin,
    .capture_end = host_capture_end,
    .graph_launch = host_graph_launch,
    .graph_free = host_graph_free,
    .embed = host_embed,
    .argmax = host_argmax,
    .select_scratch_bytes = host_select_scratch_bytes,
    .select = host_select,
};
