#!/usr/bin/env bash
# purity.sh BUILD-DIR NM [SELF-TEST-OBJECT]: no core reaches the machine but through struct hf_env.
#
# A core decides things: it takes the time as an argument and knows no thread, clock, random number, file or
# socket. This looks at the undefined symbols of each core's object file. Cores that do not exist yet match
# no object. With a third argument, an object that does reach the machine, the check itself is tested: it must
# be refused.
set -euo pipefail
build=$1 nm=$2 self_test=${3:-}

# Sources whose objects must be pure, as globs of paths below the root.
cores=(
  'base/*.c'
  'env/env.c'
  'timewheel/*.c'
  'txn/*.c'
  'group/*.c'
  'store/engine/*.c'
  'store/log/*.c'
  'dedup/state.c'
  'worker/core.c'
  'worker/policy.c'
)
# Edges among them: adapters, which hold no decisions, and the commands' settings.
edges='(_io|/base/.*/config)\.c\.o$'

forbidden='clock(_.*)?|time|ctime(_r)?|localtime(_r)?|gettimeofday|timespec_get|timer_.*|timerfd_.*|alarm|nanosleep|usleep|sleep'
forbidden+='|pthread_.*|thrd_.*|mtx_.*|cnd_.*|sem_.*'
forbidden+='|s?rand(om)?(_r)?|[dejlmn]rand48|getrandom|getentropy|arc4random.*|RAND_.*'
forbidden+='|f?open(at|64|at64)?|fdopen|freopen|creat|close|p?(read|write)v?(64)?|f(read|write|printf|puts|putc|flush|close|gets)|puts|putchar|v?printf|perror'
forbidden+='|f?(data)?sync|sync_file_range|msync|mmap(64)?|munmap|f?truncate(64)?|(posix_)?fallocate(64)?|l?f?stat(64)?|fstatat(64)?|rename(at)?|unlink(at)?|remove|mkdir(at)?|rmdir|opendir|readdir(64)?|scandir(at)?'
forbidden+='|socket|connect|bind|listen|accept4?|send(to|msg|file|file64)?|recv(from|msg)?|poll|ppoll|select|epoll_.*|eventfd|fcntl(64)?|ioctl|getaddrinfo|pipe2?'
forbidden+='|fork|exec.*|system|getenv|getpid|syscall'

# Undefined symbols of an object that are forbidden, versions cut off.
reaches() {
  "$nm" --undefined-only --format=posix "$1" | cut -d' ' -f1 | sed 's/@.*//' | grep -Ex "$forbidden" || true
}

if [ -n "$self_test" ]; then
  found=$(reaches "$self_test" | sort | tr '\n' ' ')
  [ "$found" = "clock_gettime fopen getrandom pthread_create socket " ] || {
    echo "the check itself is blind: found only '$found'"
    exit 1
  }
fi

checked=0 failed=0
for core in "${cores[@]}"; do
  folder=${core%/*} file=${core##*/}
  while IFS= read -r object; do
    [[ $object =~ $edges ]] && continue
    checked=$((checked + 1))
    found=$(reaches "$object" | tr '\n' ' ')
    [ -z "$found" ] && continue
    echo "${object#"$build"/} reaches: $found"
    failed=1
  done < <(find "$build/$folder" -path "*.dir/$file.o" 2>/dev/null | sort)
done
echo "$checked objects of cores checked"
[ $checked -gt 0 ] && [ $failed = 0 ]
