#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quotes.py LECTERN DOCUMENT [OPTION...] - how many tokens of an answer that quotes come out of one pass.

Asks for passages of the document by their first words, greedily, once as always and once with --no-drafts, and holds
the two answers against each other: they must be equal, character for character. Options go to every `lectern ask`
(--model, --device, --max-tokens ...). Prints a line a question, then the sums. DOCUMENT is UTF-8 text.
"""
import json
import re
import subprocess
import sys
import tempfile


def ask(program, document, question, options):
    command = [program, "ask", document, question, "--json", "--quiet", "--temp", "0", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def passages(text):
    """First words of paragraphs of plain prose, spread over the document."""
    prose = [p.strip() for p in re.split(r"\n\s*\n", text)]
    prose = [" ".join(p.split()) for p in prose if len(p.split()) > 40 and p[0].isalpha()]
    step = max(1, len(prose) // 8)
    return [" ".join(p.split()[:8]) for p in prose[::step]][:8]


def main():
    program, document, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    with open(document, encoding="utf-8") as f:
        starts = passages(f.read())
    tokens = passes = different = 0
    seconds = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data-dir", folder, *options]
        if "--max-tokens" not in options:
            options += ["--max-tokens", "96"]
        for start in starts:
            question = f'Quote the paragraph that begins with "{start}" word for word.'
            one = ask(program, document, question, options)
            two = ask(program, document, question, [*options, "--no-drafts"])
            n = one["usage"]["generated"]
            same = one["answer"] == two["answer"] and n == two["usage"]["generated"]
            different += not same
            tokens += n
            passes += n / one["timing"]["tokens_per_pass"]
            for i, a in enumerate((one, two)):
                seconds[i] += n / a["timing"]["decode_tokens_per_second"]
            print(f'{n:5} tokens  {one["timing"]["tokens_per_pass"]:.2f} a pass  '
                  f'{"equal" if same else "DIFFERENT"}  "{start}..."', flush=True)
    print(f"{tokens} tokens in {passes:.0f} passes: {tokens / passes:.2f} a pass; "
          f"{tokens / seconds[0]:.1f} tokens/s, one at a time {tokens / seconds[1]:.1f}; {different} answers differ")
    return 1 if different else 0


sys.exit(main())
