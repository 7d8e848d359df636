#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu, and nothing that is there.
#   setup.sh demo   what `make demo` needs: an OCI runtime
#   setup.sh ci     what the whole gate needs
# As an ordinary user it asks sudo; without sudo it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# Each line: a command that shows the package is there, and the package.
wanted() {
	case "$1" in
	demo)
		have crun || have runc || echo "crun crun"
		[ "$(id -u)" = 0 ] || echo "newuidmap uidmap"
		;;
	ci)
		cat <<-END
			crun crun
			runc runc
			newuidmap uidmap
			mkfs.ext4 e2fsprogs
			gcc gcc
			git git
			tar tar
			runuser util-linux
		END
		[ -e /usr/include/stdlib.h ] || echo "no-such-command libc6-dev"
		;;
	*)
		echo "setup.sh: say demo or ci" >&2
		exit 2
		;;
	esac
}

missing=()
while read -r cmd pkg; do
	have "$cmd" || missing+=("$pkg")
done < <(wanted "${1:-demo}")

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if [ ${#missing[@]} -gt 0 ]; then
	if ! have apt-get || { [ "$(id -u)" != 0 ] && ! have sudo; }; then
		echo "Please install first: ${missing[*]}" >&2
		exit 1
	fi
	echo "Installing: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	as_root apt-get update -qq >/dev/null
	as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The go command itself says when it is too old for go.mod, and fetches the right
# toolchain where it is allowed to.
go=$(command -v go || echo /usr/local/go/bin/go)
if ! version=$("$go" env GOVERSION 2>&1); then
	echo "Vole needs Go $(sed -n 's/^go //p' go.mod) or newer from https://go.dev/dl: $version" >&2
	exit 1
fi
