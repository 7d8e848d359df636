#!/usr/bin/env bash
# The main job of Vole on real files, in a throw-away home. Every step is checked; the
# first that does not hold ends the demo with a non-zero exit code.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"

bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '$ %s\n' "$*"; }
fail() {
	printf '\nThe demo failed: %s\n' "$*" >&2
	exit 1
}

say "Setting up"
bash scripts/setup.sh demo
make -s build
vole() { "$PWD/bin/vole" "$@"; }
vole version

# The home is on the disk of the temporary directory; it and what runs in it go when
# this script ends, however it ends.
dir=$(mktemp -d)
export VOLE_HOME=$dir/home
cleanup() {
	vole ps -q 2>/dev/null | while read -r id; do vole stop -t 1 "$id" >/dev/null 2>&1 || true; done
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Real files that every machine with Go has: sources of its standard library.
files=$(go env GOROOT)/src/net
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
sums "$files" >"$dir/want"
count=$(wc -l <"$dir/want")

say "1. A sandbox fills a volume with $count files"
show "vole create sources --label demo=yes"
vole create sources --label demo=yes
show "tar c ... | vole run -i -v sources:/data -- tar x -C /data"
tar -C "$files" -c . | vole run -i -v sources:/data -- tar -x -C /data --no-same-owner
vole ls

say "2. Another sandbox reads them"
show "vole run -v sources:/data -- sha256sum ..."
vole run -v sources:/data -- sh -c 'cd /data && find . -type f -print0 | sort -z | xargs -0 sha256sum' >"$dir/read"
cmp "$dir/want" "$dir/read" || fail "what the second sandbox read is not what the first one wrote"
echo "All $count checksums agree."
show "vole fs cat sources:/FILE   (needs no sandbox)"
first=$(head -1 "$dir/want" | cut -c67-)
vole fs cat "sources:/$first" | cmp - "$files/$first" || fail "vole fs cat shows other bytes"
echo "Vole's own file commands agree too."

say "3. A third sandbox has it read-only, in the background"
show "vole run -d --name reader -v sources:/data:ro -- sleep 600"
vole run -d --name reader -v sources:/data:ro -- sleep 600
vole ps
show "vole run -v sources:/data:ro -- touch /data/new"
if vole run -v sources:/data:ro -- touch /data/new; then
	fail "a sandbox wrote to a volume that it has read-only"
fi
vole fs ls sources:/ | grep -qw new && fail "a file appeared in a volume that was attached read-only"
echo "Refused, as it must be."

say "4. A volume in use is not removed"
show "vole rm sources"
code=0
vole rm sources 2>"$dir/err" || code=$?
cat "$dir/err"
[ "$code" = 5 ] || fail "vole rm exited $code, not 5 (in use)"
grep -q reader "$dir/err" || fail "the error does not name the holder"

say "5. When the sandbox is gone, it is"
show "vole stop reader && vole rm sources"
vole stop -t 2 reader
vole rm sources
[ -z "$(vole ls -q)" ] || fail "the volume is still listed"
[ -z "$(ls -A "$VOLE_HOME/volumes")" ] || fail "the volume's files are still there"
vole doctor || fail "the home is not clean"

say "All of it held."
