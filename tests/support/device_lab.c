/* SPDX-License-Identifier: Apache-2.0 */
/* device_lab.c - see device_lab.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/session.h"
#include "kernels/device.h"
#include "tests/support/device_lab.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

struct device_lab device_lab;
const char *const device_names[2] = {"host", "cuda"};

int device_lab_setup(void **state)
{
    (void)state;
    lab_open(&device_lab.lab);
    device_lab.model = temp_path(device_lab.lab.folder, "wide.gguf");
    device_lab.model_q4 = temp_path(device_lab.lab.folder, "wide-q4.gguf");
    device_lab.model_bias = temp_path(device_lab.lab.folder, "wide-bias.gguf");
    struct tiny_model m = tiny_model_default();
    m.D = 64; /* the card's kernels have heads of 64 and of 128 */
    m.C = 128;
    m.F = 192;
    m.gain = 0.7f; /* more makes chaos of rounding */
    struct tiny_model q = m, b = m;
    q.type = 3;
    q.embed_type = 8;
    b.type = 8;
    b.qkv_bias = 1;
    b.tied = 0;
    int rc = tiny_model_write(&m, device_lab.model) || tiny_model_write(&q, device_lab.model_q4) ||
             tiny_model_write(&b, device_lab.model_bias);
    for (int i = 0; i < 2; i++) {
        struct device *d;
        struct err e = {0};
        device_lab.has[i] = !device_open(&d, device_names[i], NULL, 0, &e);
        if (device_lab.has[i])
            device_close(d);
        else
            print_message("%s: left out: %s\n", device_names[i], e.text);
    }
    return rc || !device_lab.has[0];
}

int device_lab_teardown(void **state)
{
    (void)state;
    free(device_lab.model);
    free(device_lab.model_q4);
    free(device_lab.model_bias);
    lab_close(&device_lab.lab);
    return 0;
}

struct engine *device_lab_engine(const char *device, const char *path, double sparsity, int format)
{
    struct err e = {0};
    struct engine *g = NULL;
    struct engine_options o = {.model_path = path,
                               .heads_path = device_lab.lab.heads,
                               .sparsity = sparsity,
                               .sink = -1,
                               .recent = -1,
                               .kv_format = format,
                               .threads = 2,
                               .device = device,
                               .chunk = 512,
                               .context = 1000};
    if (engine_open(&g, &o, &e))
        fail_msg("%s: %s", device ? device : "cpu", e.text);
    return g;
}

float *device_lab_logits(const struct session *s, const struct engine *g)
{
    size_t bytes = engine_params(g)->V * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(session_logits(s));
    memcpy(copy, session_logits(s), bytes);
    return copy;
}

/* Difference by the spread of the wanted ones; NaN fails. */
double device_lab_distance(const float *want, const float *got, size_t V)
{
    double mean = 0, spread = 0, difference = 0;
    for (size_t i = 0; i < V; i++)
        mean += (double)want[i] / (double)V;
    for (size_t i = 0; i < V; i++) {
        double d = (double)want[i] - mean, x = (double)want[i] - (double)got[i];
        spread += d * d;
        difference += x * x;
    }
    return sqrt(difference / spread);
}

void device_lab_close(const float *want, const struct session *s, const struct engine *g, double bound,
                      const char *what, size_t at)
{
    assert_non_null(session_logits(s));
    double d = device_lab_distance(want, session_logits(s), engine_params(g)->V);
    if (!(d <= bound))
        fail_msg("%s at %zu: logits differ by %.2e of their spread", what, at, d);
}

void device_lab_same(const float *want, const struct session *s, const struct engine *g)
{
    assert_non_null(session_logits(s));
    assert_memory_equal(want, session_logits(s), engine_params(g)->V * sizeof *want);
}

/* fp16 between the layers moves a code of a 4-bit page now and then. */
double device_lab_bound(int format)
{
    return format == 16 || format == 8 ? 5e-3 : 3e-2;
}
