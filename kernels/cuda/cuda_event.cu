/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_event.cu - events: marks in a queue that another queue or the host waits for. */
#include <stdlib.h>

#include "kernels/cuda/cuda_device.h"

struct device_event {
    cudaEvent_t at;
};

int cuda_event_create(struct device *d, struct device_event **out, struct err *e)
{
    *out = NULL;
    int kept = cuda_result(d, cudaSetDevice(cuda_of(d)->index), "choosing the card", e);
    if (kept)
        return kept;
    struct device_event *v = (struct device_event *)calloc(1, sizeof *v);
    if (!v)
        return err_memory(e, "an event");
    int rc = cuda_result(d, cudaEventCreate(&v->at), "making an event", e);
    if (rc) {
        free(v);
        return rc;
    }
    *out = v;
    return 0;
}

void cuda_event_free(struct device *d, struct device_event *v)
{
    if (!v)
        return;
    cuda_keep(d, cudaEventDestroy(v->at), "dropping an event");
    free(v);
}

void cuda_event_record(struct device *d, enum device_queue q, struct device_event *v)
{
    cuda_keep(d, cudaSetDevice(cuda_of(d)->index), "choosing the card");
    cuda_keep(d, cudaEventRecord(v->at, cuda_of(d)->stream[q]), "recording an event");
}

void cuda_event_wait(struct device *d, enum device_queue q, struct device_event *v)
{
    cuda_keep(d, cudaStreamWaitEvent(cuda_of(d)->stream[q], v->at, 0), "waiting for an event");
}

int cuda_event_done(struct device *d, struct device_event *v)
{
    cudaError_t rc = cudaEventQuery(v->at);
    if (rc == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return 0;
    }
    cuda_keep(d, rc, "asking for an event");
    return 1;
}

int cuda_event_sync(struct device *d, struct device_event *v, struct err *e)
{
    return cuda_result(d, cudaEventSynchronize(v->at), "waiting for an event", e);
}

double cuda_event_ms(struct device *d, struct device_event *from, struct device_event *to)
{
    float ms = 0;
    cuda_keep(d, cudaEventElapsedTime(&ms, from->at, to->at), "timing");
    return ms;
}
