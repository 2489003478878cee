#!/usr/bin/env bash
# Many small processes: a build by make, gcc and git, two at a time, with a
# compressor that has threads at the end of a pipe.
set -eu

dir=$(mktemp -d "${TMPDIR:-/tmp}/traceshim-build.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
for i in {1..10}; do
    echo "int f$i(int n) { return n * $i; }" >"f$i.c"
    echo "int f$i(int);"
done >all.h
{ echo '#include "all.h"'; echo 'int main(void) { return 0'; printf ' + f%d(1)' {1..10}; echo '; }'; } >main.c
cat >Makefile <<'MAKE'
objects := $(patsubst %.c,%.o,$(sort $(wildcard *.c)))
all: program
program: $(objects)
	gcc -o $@ $^
MAKE
make -s -j2
./program || echo "program: $?"
git init -q .
git config user.name nobody
git config user.email nobody@localhost
for i in {1..5}; do
    seq $((i * 1000)) >"numbers.$i"
    git add .
    git commit -qm "number $i"
done
git gc -q
git fsck
git log --format=%H
git grep -c 999
tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - ./*.c ./*.h numbers.* | xz -T2 --block-size=64KiB | sha1sum
sort -R --random-source=Makefile numbers.1 2>/dev/null | xargs -P2 -n100 printf '%s\n' | sort -n | sha1sum
