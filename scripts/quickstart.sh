#!/usr/bin/env bash
# From nothing to two hosts that share a volume, in seconds: the commands of the README,
# with a directory for each host. Leaves nothing behind. VOLE names the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
VOLE=${VOLE:-$PWD/bin/vole}
dir=$(mktemp -d)
server=
end() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap end EXIT
# Nothing of this machine's settings counts.
for name in $(env | sed -n 's/^\(VOLE_[A-Z0-9_]*\)=.*/\1/p'); do [ "$name" = VOLE ] || unset "$name"; done
unset JOURNAL_STREAM

say() { printf '\n$ %s\n' "$*"; }
# Each host has its own configuration. --use, since this machine may have volumes of its own.
on() { local host=$1; shift; VOLE_CONFIG=$dir/$host/config.json XDG_DATA_HOME=$dir/$host "$VOLE" "$@"; }

say 'vole serve'
"$VOLE" serve --dir "$dir/server" --listen 127.0.0.1:0 --first-key-file "$dir/key" >"$dir/out" 2>"$dir/log" &
server=$!
url=
for _ in $(seq 200); do
	url=$(sed -n 's/.* url=\(http[^ ]*\) .*/\1/p' "$dir/log")
	[ -n "$url" ] && break
	kill -0 "$server" || { cat "$dir/log"; exit 1; }
	sleep 0.05
done
[ -n "$url" ] || { cat "$dir/log"; exit 1; }
cat "$dir/out"

mkdir "$dir/alice" "$dir/bob" "$dir/results"
echo 42 >"$dir/results/answer"

say "vole login $url --profile alice --use < key    # on one host"
on alice login "$url" --profile alice --use <"$dir/key"
say 'vole key create bob --scope write -q > bob.key'
on alice key create bob --scope write -q >"$dir/bob.key"
say 'vole create shared'
on alice create shared
say 'vole cp ./results shared:/results'
on alice cp "$dir/results" shared:/results

say "vole login $url --profile bob --use < bob.key    # on another host"
on bob login "$url" --profile bob --use <"$dir/bob.key"
say 'vole fs cat shared:/results/answer'
got=$(on bob fs cat shared:/results/answer)
echo "$got"
[ "$got" = 42 ]

kill "$server"
wait "$server"
server=
printf '\nquickstart: two hosts shared a volume, in %d seconds\n' "$SECONDS"
