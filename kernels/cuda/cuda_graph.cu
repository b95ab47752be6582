/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_graph.cu - a recorded step: what DEVICE_COMPUTE was given between begin and end. */
#include <stdlib.h>

#include "kernels/cuda/cuda_device.h"

struct device_graph {
    cudaGraphExec_t exec;
};

int cuda_capture_begin(struct device *d, struct err *e)
{
    struct cuda_device *c = cuda_of(d);
    int kept = cuda_result(d, cudaSetDevice(c->index), "choosing the card", e);
    if (kept)
        return kept;
    /* relaxed: copies on the other queues and allocations go on meanwhile */
    return cuda_result(d, cudaStreamBeginCapture(c->stream[DEVICE_COMPUTE], cudaStreamCaptureModeRelaxed),
                       "recording a step", e);
}

int cuda_capture_end(struct device *d, struct device_graph **out, struct err *e)
{
    struct cuda_device *c = cuda_of(d);
    *out = NULL;
    cudaGraph_t graph = NULL;
    cuda_keep(d, cudaStreamEndCapture(c->stream[DEVICE_COMPUTE], &graph), "recording a step");
    cudaGraphExec_t exec = NULL;
    if (graph && !c->failed)
        cuda_keep(d, cudaGraphInstantiate(&exec, graph, 0), "making a step's graph");
    if (graph)
        cuda_keep(d, cudaGraphDestroy(graph), "making a step's graph");
    if (exec)
        cuda_keep(d, cudaGraphUpload(exec, c->stream[DEVICE_COMPUTE]), "uploading a step's graph");
    struct device_graph *g = NULL;
    int rc = cuda_kept(d, e);
    if (!rc && !(g = (struct device_graph *)calloc(1, sizeof *g)))
        rc = err_memory(e, "a step's graph");
    if (rc) {
        if (exec)
            cudaGraphExecDestroy(exec);
        (void)cudaGetLastError();
        return rc;
    }
    g->exec = exec;
    *out = g;
    return 0;
}

void cuda_graph_launch(struct device *d, struct device_graph *g)
{
    cuda_keep(d, cudaSetDevice(cuda_of(d)->index), "choosing the card");
    cuda_keep(d, cudaGraphLaunch(g->exec, cuda_compute(d)), "a step");
}

void cuda_graph_free(struct device *d, struct device_graph *g)
{
    if (!g)
        return;
    cuda_keep(d, cudaStreamSynchronize(cuda_compute(d)), "waiting");
    cuda_keep(d, cudaGraphExecDestroy(g->exec), "dropping a step's graph");
    free(g);
}
