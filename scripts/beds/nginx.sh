#!/usr/bin/env bash
# nginx, whose workers read files in threads of theirs, under a load of large and
# small files, in part through itself as a proxy. What the clients got is printed.
set -eu

dir=$(mktemp -d "${TMPDIR:-/tmp}/traceshim-nginx.XXXXXX")
trap 'rm -rf "$dir"' EXIT
# The workers are another user's where this is root.
chmod 755 "$dir"
cd "$dir"
mkdir files
seq 1 20000 >files/big
seq 1 400000 >files/huge
echo hello >files/small

cat >nginx.conf <<CONF
daemon off;
pid $dir/pid;
worker_processes 2;
thread_pool files threads=4;
events {}
http {
    access_log off;
    client_body_temp_path $dir/1; proxy_temp_path $dir/2; fastcgi_temp_path $dir/3; uwsgi_temp_path $dir/4; scgi_temp_path $dir/5;
    aio threads=files; sendfile off; directio 512; gzip on; gzip_types *;
    server {
        listen unix:$dir/socket;
        root $dir/files;
        location /again/ { proxy_pass http://unix:$dir/socket:/; }
    }
}
CONF
nginx -p "$dir" -c nginx.conf -e errors &
nginx=$!
get() { curl -s --unix-socket socket "$@"; }
deadline=$((SECONDS + 60))
until get -o /dev/null http://x/small; do
    if ! kill -0 $nginx || ((SECONDS > deadline)); then
        cat errors
        exit 1
    fi
done

clients=()
for client in 1 2 3 4; do
    for _ in {1..40}; do
        for file in big again/huge small; do printf 'url = http://x/%s\noutput = /dev/null\n' $file; done
    done | get -K - -w '%{http_code} %{size_download}\n' >answers.$client &
    clients+=($!)
done
wait "${clients[@]}"
sort answers.* | uniq -c
get http://x/huge | sha1sum
get --compressed http://x/again/big | sha1sum
get -o /dev/null -w '%{http_code}\n' http://x/none
kill -QUIT $nginx
wait $nginx
echo "nginx: $?"
