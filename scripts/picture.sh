#!/bin/bash
# Records docs/top.svg: sidecar top on this machine, while nginx and Redis answer requests and a cron job runs, in cgroups with
# such names as systemd, Docker and Kubernetes give them. Takes a minute (root).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh tmux nginx wrk redis-server redis-tools
work=$(mktemp -d)
tmux=(tmux -S "$work/tmux")
groups=()

clean() {
	"${tmux[@]}" kill-server 2>/dev/null || true
	for group in "${groups[@]}"; do
		until rmdir "$group" 2>/dev/null; do
			xargs -r kill -KILL <"$group/cgroup.procs" 2>/dev/null || true
			sleep 0.1
		done
	done
	umount "$work/cgroup"
	rm -rf "$work"
}
trap clean EXIT
mkdir "$work/cgroup"
mount -t cgroup2 cgroup2 "$work/cgroup"

# run GROUP COMMAND...  starts a command in a cgroup of its own.
run() {
	local group=$work/cgroup/$1
	mkdir "$group"
	groups+=("$group")
	(echo $BASHPID >"$group/cgroup.procs" && exec "${@:2}") >/dev/null 2>&1 </dev/null &
	disown # or bash would tell how it ends
}

hash() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

mkdir "$work/www"
echo hello >"$work/www/index.html"
cat >"$work/nginx.conf" <<CONF
daemon off; pid $work/nginx.pid; error_log /dev/null;
events {}
http { access_log off; server { listen 127.0.0.1:18080; root $work/www; } }
CONF
run nginx.service nginx -c "$work/nginx.conf"
run "docker-$(hash).scope" redis-server --port 16379 --save '' --dir "$work"
run wrk.service wrk -t1 -c8 -d600 http://127.0.0.1:18080/
run "cri-containerd-$(hash).scope" redis-benchmark -p 16379 -l -c 4
run cron.service bash -c 'while sleep 0.2; do ls | sort | wc -l; done'

"${tmux[@]}" -f /dev/null new-session -d -x 100 -y 28 "env -u NO_COLOR -u TMUX TERM=tmux-256color LC_ALL=C.UTF-8 bin/sidecar top"
"${tmux[@]}" set -g status off
screen() {
	"${tmux[@]}" send-keys "${@:2}"
	sleep 3
	"${tmux[@]}" capture-pane -e -p >"$work/$1"
}
sleep 45
screen overview 1 Down
screen workloads 2 Right Right Right Right Right
screen distribution 3 Right
go run ./internal/picture "$work/overview" "$work/workloads" "$work/distribution" >docs/top.svg
