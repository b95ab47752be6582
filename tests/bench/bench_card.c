/* SPDX-License-Identifier: Apache-2.0 */
/* bench_card.c [OPTIONS] - `lectern bench cuda OPTIONS` as a program of its own, with few libraries, to be
 * carried to a machine with a card by portable.sh. */
#include <signal.h>
#include <string.h>

#include "app/cli.h"
#include "app/commands.h"
#include "app/output.h"

int main(int argc, char **argv)
{
    char *words[64] = {argv[0], (char *)(uintptr_t) "bench", (char *)(uintptr_t) "cuda"};
    struct config c;
    struct err e = {0};
    const struct cli_command *command;
    if (argc > 60)
        return 2;
    for (int i = 1; i < argc; i++)
        words[i + 2] = argv[i];
    signal(SIGPIPE, SIG_IGN);
    config_init(&c);
    int rc = cli_parse(argc + 2, words, &c, &command, &e);
    if (!rc)
        rc = cmd_bench_cuda(&c, &e);
    if (rc)
        output_error(e.text);
    config_fini(&c);
    return !rc ? 0 : rc == ERR_USAGE ? 2 : 1;
}
