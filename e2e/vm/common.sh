# What the scripts here and in ../guest share, for them to source.

die() {
	echo "$(basename "$0" .sh): $*" >&2
	exit 1
}

# Fails unless there are the commands of $1..., each written COMMAND=PACKAGE.
need() {
	local pair
	for pair; do
		command -v "${pair%=*}" >/dev/null || die "no ${pair%=*}: apt-get install ${pair#*=}"
	done
}

# Debian's releases are found by the machine's own apt sources, or SIDECAR_DEBIAN_MIRROR (the address of a Debian archive).
releases='(oldoldstable|oldstable|stable|testing|unstable|sid|bullseye|bookworm|trixie|forky)'


# Prints "suite uri keyring" for each enabled source of Debian's main component, from both formats apt knows
# (sources.list(5)). A source without a keyring of its own gets "-": apt then trusts its global ones.
machine_sources() {
	local file
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[[ -r $file ]] && awk '
			/^[ \t]*deb[ \t]/ {
				key = "-"
				if (match($0, /signed-by=[^] \t]+/)) key = substr($0, RSTART + 10, RLENGTH - 10)
				sub(/\[[^]]*\]/, "")
				if ($4 == "main") print $3, $2, key
			}' "$file"
	done
	for file in /etc/apt/sources.list.d/*.sources; do
		# An empty line ends a stanza: the one printed after the file ends its last.
		[[ -r $file ]] && { cat "$file" && echo; } | awk '
			function finish(    s, u, i, j) {
				if (("types" in f) && (" " f["types"] " ") ~ / deb / && (" " f["components"] " ") ~ / main / && f["enabled"] !~ /^no/)
					for (i = 1; i <= split(f["suites"], s, " "); i++)
						for (j = 1; j <= split(f["uris"], u, " "); j++)
							print s[i], u[j], (f["signed-by"] ~ /^\//) ? f["signed-by"] : "-"
				split("", f)
			}
			/^#/ { next }
			/^[ \t]*$/ { finish(); next }
			/^[ \t]/ { f[name] = f[name] " " $0; next }
			{ name = tolower($1); sub(/:.*/, "", name); sub(/^[^:]*:[ \t]*/, ""); f[name] = $0 }'
	done
	return 0
}

# Prints "uri keyring" of the archive that serves suites like $1. Releases live side by side in one archive, so the source
# of any release tells where all of them are.
archive_of() {
	local want="^$releases\$"
	[[ $1 == *-security ]] && want="^$releases-security\$"
	if [[ -z ${SIDECAR_DEBIAN_MIRROR:-} ]]; then
		machine_sources | awk -v want="$want" '$1 ~ want && !found++ { print $2, $3 }'
	elif [[ $1 != *-security ]]; then
		echo "$SIDECAR_DEBIAN_MIRROR /usr/share/keyrings/debian-archive-keyring.gpg"
	fi
}

# Prints sources (sources.list(5)) for the suites $1...
debian_sources() {
	local suite uri keyring found=''
	for suite; do
		read -r uri keyring < <(archive_of "$suite") || continue
		printf 'Types: deb\nTargets: Packages\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
		[[ $keyring == - ]] || printf 'Signed-By: %s\n' "$keyring"
		echo
		found=yes
	done
	[[ -n $found ]] ||
		die "no Debian archive among this machine's apt sources: set SIDECAR_DEBIAN_MIRROR to one (needs the package debian-archive-keyring)"
}

# Sets log to the file that gets the console of a guest that is called $1, unless it is set, and removes that of an earlier boot,
# which must not pass for this one's.
fresh_log() {
	if [[ -z $log ]]; then
		log=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/vm/${1//\//-}.log
		mkdir -p "$(dirname "$log")"
	fi
	rm -f "$log"
}

# Ends the guest that runs, for a trap.
end_guest() {
	[[ -z ${guest:-} ]] || kill "$guest"
}

# Boots a guest that is called $1, with the options $3... of QEMU, and waits until it powers off, at most $2 seconds. Its
# console goes to the file that fresh_log set. Prints the guest's SIDECAR- lines. Fails when a test binary failed and, with the
# end of the console, when the guest did not get through all of them.
boot() {
	local name=$1 limit=$2 status=0
	shift 2
	# thread=single: with a thread for each CPU, QEMU loses track when one of them patches code that another one runs.
	# Attaching and detaching tracing programs for a minute hung 5.10 and 6.1 and made 7.2 panic, each time. With -no-reboot
	# and panic=-1 for the kernel, a panic ends QEMU at once. A test that hangs is ended by its own timeout, which shows
	# where. In the background, so that the trap can end it when the script is told to.
	timeout -k 5 "$limit" qemu-system-x86_64 \
		-accel tcg,thread=single -nodefaults -display none -no-reboot -serial "file:$log" "$@" </dev/null &
	guest=$!
	wait "$guest" || status=$?
	guest=''

	[[ -e $log ]] || die "$name: QEMU did not start"
	tr -d '\r' <"$log" | grep -a '^SIDECAR-' || true
	if ! grep -aq '^SIDECAR-DONE' "$log"; then
		tail -n 40 "$log" >&2
		[[ $status -ne 124 ]] || die "$name: not done within $limit seconds; above is the end of its console, all of it is in $log"
		die "$name: ended before its tests did; above is the end of its console, all of it is in $log"
	fi
	! grep -aqE '^SIDECAR-RESULT .* exit=[1-9]' "$log" || die "$name: a test binary failed; its output is in $log"
}
