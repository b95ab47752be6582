#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole path through the real program, with the real model: the sample PDF is read once, asked and cited;
reading is killed, stopped and goes on; damage, locks, broken files and too long contexts are met as promised.

Each case prints what it measured. Texts are short, so that most of the time is the one reading of the guide.
"""
import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.environ.get("LECTERN_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LECTERN_BUILD") or os.path.join(ROOT, "build")
LECTERN = os.path.join(BUILD, "lectern")
GUIDE = os.path.join(ROOT, "data/sample/guide.pdf")
MODEL = os.environ.get("LECTERN_TEST_MODEL")
NOTES = {
    "harbour.txt": "Notes of the harbour office.\n\nThe harbour master of Lindholm is called Oskar Brandt. He has "
                   "kept the log for thirty years.\n\nThe lighthouse of Lindholm is painted green and white.\n",
    "kitchen.txt": "Notes of the kitchen.\n\nThe soup of the day on Friday is pumpkin soup. It is served with rye "
                   "bread.\n\nThe cook of the inn is called Henrietta Vale.\n",
}
passed, failed = [], []


class Failure(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failure(text)


def command(*args, data, model=True):
    return [LECTERN, *args, "--data-dir", data] + (["--model", MODEL] if MODEL and model else [])


def run(*args, data, status=0):
    """stdout, stderr of the program, whose exit status must be the wanted one"""
    done = subprocess.run(command(*args, data=data), capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=900)
    expect(done.returncode == status,
           f"{args}: exit {done.returncode}, wanted {status}\nout: {done.stdout}\nerr: {done.stderr}")
    return done.stdout, done.stderr


def ask(*args, data, tokens=48):
    """(object, stderr) of ask --json"""
    out, err = run("ask", "--json", "--max-tokens", str(tokens), *args, data=data)
    return json.loads(out), err


def add(*args, data):
    """what add's last line says, stderr"""
    out, err = run("add", *args, data=data)
    said = re.search(r": (\d+) documents?, (\d+) tokens \((\d+) restored, (\d+) read at", out)
    expect(said, f"add {args} printed {out!r}")
    return dict(zip(("documents", "tokens", "restored", "prefilled"), map(int, said.groups()))), err


def start_add(*args, data):
    return subprocess.Popen(command("add", *args, data=data), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, stdin=subprocess.DEVNULL)


def saved_tokens(name, data):
    """tokens of the session's last durable save, as another process sees them"""
    done = subprocess.run(command("sessions", "list", "--json", data=data, model=False), capture_output=True, text=True,
                          timeout=60)
    for row in json.loads(done.stdout) if done.returncode == 0 and done.stdout else []:
        if row["name"] == name:
            return row["tokens"]
    return 0


def wait_for(what, condition, process, limit=600):
    end = time.monotonic() + limit
    while not condition():
        if process.poll() is not None:
            raise Failure(f"{what}: the program ended first with {process.returncode}: {process.stderr.read()}")
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {limit} s")
        time.sleep(0.1)


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def same_answer(a, b):
    """Everything of two answers but how long they took and what was read for them."""
    return all(a[key] == b[key] for key in ("answer", "citations", "cancelled", "truncated"))


def facts():
    with open(os.path.join(ROOT, "data/sample/facts.tsv"), encoding="utf-8") as f:
        return [line.rstrip("\n").split("\t") for line in f]


# ---- cases; each takes the folder of its own ----


def the_guide(work):
    data = os.path.join(work, "data")
    begun = time.monotonic()
    read, _ = add(GUIDE, data=data)
    seconds = time.monotonic() - begun
    expect(read["documents"] == 1 and read["restored"] == 0, f"first add: {read}")
    expect(read["prefilled"] == read["tokens"] > 10000, f"first add: {read}")
    print(f"the guide: {read['tokens']} tokens read in {seconds:.1f} s")
    cited = 0
    for number, (question, fact, index, label) in enumerate(facts()):
        got, err = ask(GUIDE, question, data=data)
        usage = got["usage"]
        line = f"restored {read['tokens']}, verified, "
        expect(line in err and got["restore"]["line"].startswith(line), f"{got['restore']} {err!r}")
        expect(usage["prefilled"] == 0, f"{question}: {usage} (nothing of the document may be read again)")
        expect(usage["restored"] == read["tokens"] and usage["proof"] == "verified", f"{question}: {usage}")
        pages = [(c["page_index"], c["page_label"]) for c in got["citations"]]
        right = fact.lower() in got["answer"].lower() and (int(index), label) in pages
        cited += right
        print(f"  {'right' if right else 'wrong'}: {got['answer'][:70]!r} {pages}, wanted {fact!r} on ({index}, {label})")
        if number == 0:
            expect(right, "the first fact must be answered and cited on its page")
            quote = got["citations"][0]["quote"]
            expect(fact in quote, f"the quote {quote!r} must hold the fact")
            first = got
    expect(cited * 2 > len(facts()), f"{cited} of {len(facts())} facts answered and cited on their page")
    print(f"  {cited} of {len(facts())} facts answered and cited; restored {read['tokens']}, prefilled 0 each time, "
          f"restore {first['timing']['restore_seconds']:.2f} s")
    again, _ = add(GUIDE, data=data)
    expect(again["prefilled"] == 0 and again["restored"] == read["tokens"], f"second add: {again}")


def too_long(work):
    _, err = run("ask", "--adapter", "none", GUIDE, facts()[0][0], data=os.path.join(work, "data"), status=1)
    print("refused:", err.strip().splitlines()[-1])
    expect(re.search(r"\b1[0-9]{4}\b.*\b8192\b", err), err)
    expect("--long" in err, "the choices must be named: " + err)


def long_text(work):
    """A text of some 6,000 tokens with a fact near its beginning: two saves and a rest."""
    path, text = os.path.join(work, "long.txt"), ""
    for part in sorted(glob.glob(os.path.join(ROOT, "data/sample/guide/*.md")))[2:9]:
        with open(part, encoding="utf-8") as f:
            text += f.read() + "\n"
    at = text.index("\n\n", 3000)
    text = text[:at] + "\n\nThe secret passphrase of the north gate is amber falcon.\n" + text[at:]
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def killed_and_continued(work):
    path, name, question = long_text(work), "long", "What is the secret passphrase of the north gate?"
    whole_dir, data = os.path.join(work, "whole"), os.path.join(work, "data")
    whole, _ = add("-s", name, path, data=whole_dir)
    wanted, _ = ask("-s", name, question, data=whole_dir)
    expect("amber falcon" in wanted["answer"].lower(), f"the uninterrupted answer: {wanted['answer']!r}")
    total = whole["tokens"]

    with ended(start_add("-s", name, path, data=data)) as p:  # stopped by the person
        wait_for("a session", lambda: glob.glob(os.path.join(data, "locks", "*")), p)
        time.sleep(4)
        _, err = run("ask", "-s", name, question, data=data, status=1)
        expect("in use" in err and str(p.pid) in err, f"a held session: {err!r}")
        print("while it was read:", err.strip().splitlines()[-1])
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    expect(p.returncode == 1, f"SIGINT: exit {p.returncode}: {err}")
    stopped = saved_tokens(name, data)
    print(f"SIGINT: {err.strip().splitlines()[-1]!r}; saved {stopped}")
    said = re.search(r"stopped after (\d+) of (\d+) tokens, which are kept", err)
    expect(said and (int(said[1]), int(said[2])) == (stopped, total) and stopped < total, f"SIGINT kept {stopped}: {err}")

    with ended(start_add("-s", name, path, data=data)) as p:  # killed, no time to save
        wait_for("a save", lambda: saved_tokens(name, data) > stopped, p)
        time.sleep(0.5)
        p.kill()
        p.communicate()
    expect(p.returncode == -signal.SIGKILL, f"SIGKILL: exit {p.returncode}")
    kept = saved_tokens(name, data)

    rest, _ = add("-s", name, path, data=data)
    print(f"SIGKILL: {kept} of {total} tokens were saved; the next add restored {rest['restored']} and read "
          f"{rest['prefilled']}")
    expect(rest["restored"] == kept >= 4096, f"restored {rest['restored']}, saved {kept}")
    expect(rest["restored"] + rest["prefilled"] == total == rest["tokens"], f"{rest}")
    got, _ = ask("-s", name, question, data=data)
    expect(got["usage"]["prefilled"] == 0, f"{got['usage']}")
    expect(same_answer(got, wanted), f"{got}\nis not\n{wanted}")
    print(f"  the answer equals the uninterrupted run's: {got['answer']!r}")


def write_notes(work):
    paths = []
    for name, text in NOTES.items():
        paths.append(os.path.join(work, name))
        with open(paths[-1], "w", encoding="utf-8") as f:
            f.write(text)
    return paths


def two_documents(work):
    data, (harbour, kitchen) = os.path.join(work, "data"), write_notes(work)
    read, _ = add("-s", "notes", harbour, kitchen, data=data)
    expect(read["documents"] == 2, f"{read}")
    for question, fact, path, line in (("Who is the harbour master of Lindholm?", "Brandt", harbour, 3),
                                       ("What is the soup of the day on Friday?", "pumpkin", kitchen, 3)):
        got, _ = ask("-s", "notes", question, data=data)
        expect(fact in got["answer"], f"{question} {got['answer']!r}")
        first = got["citations"][0]
        expect(first["file"] == path and first["lines"][0] == line and fact in first["quote"], f"{first}")
        begin, length = first["bytes"][0], first["bytes"][1] - first["bytes"][0]
        with open(path, "rb") as f:
            source = f.read()[begin:begin + length].decode()
        expect(source == first["quote"], f"bytes {first['bytes']} of the file are {source!r}, not {first['quote']!r}")
        print(f"two documents: {got['answer']!r} from {first['name']}, lines {first['lines']}, bytes {first['bytes']}")

    with open(harbour, "w", encoding="utf-8") as f:  # the file changes on disk
        f.write(NOTES["harbour.txt"].replace("Oskar Brandt", "Ingrid Solberg"))
    got, err = ask("-s", "notes", harbour, "Who is the harbour master of Lindholm?", data=data)
    expect("has changed" in err, f"no notice of the change: {err!r}")
    expect("Solberg" in got["answer"] and "Brandt" not in got["answer"], f"{got['answer']!r}")
    expect("Solberg" in got["citations"][0]["quote"], f"{got['citations']}")
    print(f"edited: {got['answer']!r}; {err.strip().splitlines()[0]!r}")
    expect(got["changed"] == [] and got["restore"]["reason"].startswith("the text changed at"), f"{got['restore']}")

    with open(kitchen, "w", encoding="utf-8") as f:  # unasked, the text as it was is kept and the change is told
        f.write(NOTES["kitchen.txt"].replace("pumpkin", "lentil"))
    got, err = ask("-s", "notes", "What is the soup of the day on Friday?", data=data)
    expect("pumpkin" in got["answer"] and got["usage"]["prefilled"] == 0, f"{got}")
    expect(got["changed"] == [kitchen] and "kitchen.txt changed on disk" in err, f"{got['changed']} {err!r}")
    read, err = add("--changed", "-s", "notes", data=data)
    expect(read["restored"] > 0 and read["prefilled"] < read["tokens"], f"what comes before it is kept: {read}")
    print(f"--changed: {err.strip().splitlines()[-1]!r}")
    got, err = ask("-s", "notes", "What is the soup of the day on Friday?", data=data)
    expect("lentil" in got["answer"] and got["usage"]["prefilled"] == 0 and got["changed"] == [], f"{got}")


def broken_pdf(work):
    data, (harbour, _) = os.path.join(work, "data"), write_notes(work)
    broken = os.path.join(work, "broken.pdf")
    with open(GUIDE, "rb") as f:
        head = f.read(9000)
    with open(broken, "wb") as f:
        f.write(head[:4000] + bytes(4000) + head[8000:])
    out, err = run("add", "-s", "mixed", broken, harbour, data=data, status=1)  # the other one is read all the same
    lines = [line for line in err.splitlines() if "broken.pdf" in line]
    print("broken PDF:", lines)
    expect(": 1 document, " in out, f"{out!r}")
    expect(len(lines) == 2 and "1 of 2 documents could not be added" in lines[1], f"at once, and at the end: {err!r}")
    got, _ = ask("-s", "mixed", "Who is the harbour master of Lindholm?", data=data)
    expect("Brandt" in got["answer"], got["answer"])
    out, err = run("add", "-s", "mixed", broken, data=data, status=1)
    expect(len(err.strip().splitlines()) == 1 and "broken.pdf" in err, f"alone: {err!r}")


def flip(path, at, n):
    with open(path, "r+b") as f:
        f.seek(at)
        was = f.read(n)
        f.seek(at)
        f.write(bytes(b ^ 0x55 for b in was))


def used_pages(path):
    """Offsets of the 4 KiB pages that hold anything."""
    with open(path, "rb") as f:
        data = f.read()
    return [at for at in range(0, len(data), 4096) if data[at:at + 4096].strip(b"\0")]


def damaged_segment(work):
    """Bits flip here and there in the segments; each time the answer is as before, after a second reading where
    what was hit is needed, and never without a word."""
    data, question = os.path.join(work, "data"), "Who is the harbour master of Lindholm?"
    paths = write_notes(work)[:1]
    with open(os.path.join(ROOT, "data/sample/guide/08-heads.md"), encoding="utf-8") as f, \
            open(paths[0], "a", encoding="utf-8") as to:
        to.write("\n" + f.read() + NOTES["kitchen.txt"])  # more than a block of tokens
    read, _ = add("-s", "notes", *paths, data=data)
    wanted, _ = ask("-s", "notes", question, data=data)
    expect("Brandt" in wanted["answer"], wanted["answer"])
    reread = 0
    for part in range(4):  # a damaged segment may be gone afterwards, so look anew each time
        places = [(s, at) for s in sorted(glob.glob(os.path.join(data, "segments", "*.seg"))) for at in used_pages(s)]
        segment, at = places[len(places) * part // 4]
        flip(segment, at + 1000 if part else 8, 64)
        got, err = ask("-s", "notes", *paths, question, data=data)
        expect(same_answer(got, wanted), f"flipped at {at} of {segment}: {got} is not {wanted}\n{err}")
        restored, prefilled = got["usage"]["restored"], got["usage"]["prefilled"]
        expect(restored + prefilled == read["tokens"], f"{got['usage']}")
        expect(not prefilled or "damaged" in got["restore"]["reason"] and "damaged" in err,
               f"read again without a word: {got['restore']} {err!r}")
        reread += prefilled > 0
        print(f"  flip {part} in page {at // 4096} of {os.path.basename(segment)}: restored {restored}, read again {prefilled} {err.strip()[-110:]!r}")
    expect(reread > 0, "no flip hit what is restored")
    got, _ = ask("-s", "notes", question, data=data)
    expect(got["usage"]["prefilled"] == 0 and same_answer(got, wanted), f"after the repair: {got}")
    print(f"damage: {reread} readings again, every answer as before")


CASES = [too_long, two_documents, broken_pdf, damaged_segment, killed_and_continued, the_guide]


def main():
    global MODEL
    if not MODEL:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        MODEL = os.path.join(cache, "lectern/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.exists(MODEL):
        print("the default model is not here: run make model")
        return 77
    for case in CASES:
        if len(sys.argv) > 1 and case.__name__ not in sys.argv[1:]:
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            try:
                case(work)
                passed.append(case.__name__)
            except (Failure, subprocess.TimeoutExpired, KeyError, IndexError, ValueError, TypeError) as e:
                failed.append(case.__name__)
                print(f"FAILED {case.__name__}: {type(e).__name__} {e}")
        print(f"{case.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
    print(f"[  PASSED  ] {len(passed)} test(s).")
    if failed:
        print(f"[  FAILED  ] book: {len(failed)} test(s), listed below:", *failed, sep="\n")
    return 1 if failed else 0


sys.exit(main())
