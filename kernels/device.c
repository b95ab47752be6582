/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - opens a device by name; the card's library is looked for and loaded here, and never unloaded
 * (a driver's threads may outlive the last device). */
#include "kernels/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/device_host/device_host.h"

#define CUDA_LIBRARY "liblectern_cuda.so"

typedef int open_function(struct device **out, int index, uint64_t abi, struct err *e);

/* Folder of this program; 0 when it is not to be known. */
static int program_folder(char *folder, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", folder, size - 1);
    if (n <= 0 || (size_t)n >= size - 1)
        return 0;
    folder[n] = 0;
    char *slash = strrchr(folder, '/');
    if (!slash)
        return 0;
    *slash = 0;
    return 1;
}

/* From beside the program up to the build folder that it lies in, then where `make install` puts it. */
static int find_library(char *path, size_t size)
{
    static const char *const places[] = {"", "/..", "/../..", "/../lib/lectern", "/../lib"};
    char folder[PATH_MAX];
    if (!program_folder(folder, sizeof folder))
        return 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, size, "%s%s/" CUDA_LIBRARY, folder, places[i]);
        if (n > 0 && (size_t)n < size && access(path, R_OK) == 0)
            return 1;
    }
    return 0;
}

static int open_cuda(struct device **out, const char *library, int index, struct err *e)
{
    char found[PATH_MAX];
    if (!library) {
        if (!find_library(found, sizeof found))
            return err_set(e, ERR_UNSUPPORTED,
                           "CUDA is not used: " CUDA_LIBRARY " is not beside this program (a build with nvcc "
                           "makes it)");
        library = found;
    }
    if (access(library, R_OK))
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: %s cannot be read", library);
    /* Without a driver nothing is loaded: the libraries of products are hundreds of megabytes. */
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: there is no NVIDIA driver on this machine");
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: %s", dlerror());
    void *symbol = dlsym(handle, "lectern_cuda_open");
    if (!symbol)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: %s is not Lectern's", library);
    open_function *open;
    memcpy(&open, &symbol, sizeof open); /* ISO C has no conversion from void * to a function */
    return open(out, index, DEVICE_ABI, e);
}

int device_open(struct device **out, const char *name, const char *library, int index, struct err *e)
{
    *out = NULL;
    if (!strcmp(name, "host"))
        return host_open(out, e);
    if (!strcmp(name, "cuda"))
        return open_cuda(out, library, index, e);
    return err_set(e, ERR_USAGE, "there is no device \"%s\": cuda or host", name);
}

void device_close(struct device *d)
{
    if (d)
        d->ops->close(d);
}
