#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tidy.sh - the house rules that neither the compiler nor the formatter knows.  Part of `make check`.
# Prints "file:line: what" for each finding and ends with 1 when there is one.
set -u
shopt -s lastpipe # so that rule() at the end of a pipe can set `bad`
cd "${srcdir:-$(dirname "$0")/..}" || exit 99
bad=0
rule() { # rule "what to do instead" < findings
    local line
    while IFS= read -r line; do
        printf '%s <- %s\n' "$line" "$1"
        bad=1
    done
}

mapfile -t c_files < <(find include src tests bench tools examples -name '*.[ch]' 2>/dev/null | sort)
mapfile -t scripts < <(find . -maxdepth 1 -type f -perm -u+x ! -name 'configure*' ! -name config.status ! -name libtool | sort; find tools tests bench -type f \( -name '*.sh' -o -name '*.am' \) | sort)
build_files=(Makefile.am configure.ac m4/ash_options.m4 src/*/module.am)

# The code of a file as "file:line:code": comments and the insides of strings are blanked.
code() {
    awk '
    FNR == 1 { comment = 0 }
    {
        out = ""; i = 1; n = length($0); string = ""
        while (i <= n) {
            two = substr($0, i, 2); one = substr($0, i, 1)
            if (comment) { if (two == "*/") { comment = 0; i += 2 } else i++; continue }
            if (string != "") {
                if (one == "\\") { i += 2; continue }
                if (one == string) { string = ""; out = out one }
                i++; continue
            }
            if (two == "/*") { comment = 1; i += 2; continue }
            if (two == "//") break
            if (one == "\"" || one == "\047") string = one
            out = out one; i++
        }
        print FILENAME ":" FNR ":" out
    }' "$@"
}
engine_code=$(code $(find src -name '*.[ch]'))
all_code=$(code "${c_files[@]}")

# --- Files ---
for f in "${c_files[@]}" "${scripts[@]}" "${build_files[@]}"; do
    head -3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$f:1"
done | rule "needs an SPDX line at its head"
for f in "${c_files[@]}"; do
    base=$(basename "$f")
    # A folder that holds only its contract so far lists nothing yet.
    case "$f" in
    include/*) continue ;;
    src/*.h) ls "$(dirname "$f")"/*.c >/dev/null 2>&1 || continue ;;
    esac
    # A test of one file is listed by its program: without .c
    grep -qE "/${base%.c}(\.c)?([[:space:]]|$)" "$(dirname "$f")/module.am" 2>/dev/null || echo "$f:1"
done | rule "not listed in the module.am of its folder"
bad_names=$(find src -name '*.[ch]' -exec basename {} \; | sort | uniq -d)
[ -z "$bad_names" ] || rule "file names are unique in the tree" <<<"$bad_names"

# --- Lines.  The formatter keeps code at 100 columns; it leaves comments and tables alone, for which this is the end. ---
awk 'FNR == 1 { off = 0; end = FILENAME ~ /\.h$/ ? 180 : 130 } /clang-format off/ { off = 1 } /clang-format on/ { off = 0 }
     !off && length > end { print FILENAME ":" FNR }' "${c_files[@]}" | rule "line too long (aim at 100 columns)"
grep -nE '[[:blank:]]+$' "${c_files[@]}" | rule "blank at the end of the line"
grep -nP '\t' "${c_files[@]}" | cut -d: -f1,2 | rule "use spaces, not tabs"
grep -nE '\b(FIXME|XXX|TODO)\b' "${c_files[@]}" | rule "resolve it, or list it under 'Not done' in the README"

# --- Names that never appear ---
grep -E '\b(sprintf|vsprintf|strcpy|strcat|strncpy|strncat|gets|alloca|strtok|atoi|atol|setjmp|longjmp)[[:blank:]]*\(' <<<"$all_code" |
    rule "banned: use snprintf, memcpy with a length, strtoull"
grep -E '\b(printf|puts|fprintf|exit|_exit)[[:blank:]]*\(' <<<"$engine_code" |
    rule "the library neither prints nor exits: use log_write() or return an error"

# --- Seams: memory, files, time, threads and randomness have one door each ---
outside=$(grep -vE '^src/(base|task|storage)/' <<<"$engine_code")
grep -E '\b(malloc|calloc|realloc|free|strdup|strndup|posix_memalign|aligned_alloc|mmap|munmap|madvise)[[:blank:]]*\(' <<<"$outside" |
    rule "memory comes from base/mem.h"
grep -E '[^_.>a-z](open|openat|creat|close|read|write|pread|pwrite|preadv|pwritev|fsync|fdatasync|ftruncate|fallocate|unlink|rename|mkdir|opendir|stat|fstat|fopen)[[:blank:]]*\(' <<<"$outside" |
    rule "files are reached through storage/io.h"
grep -E '\b(clock_gettime|gettimeofday|time|nanosleep|usleep|sleep|clock_nanosleep)[[:blank:]]*\(' <<<"$outside" |
    rule "time comes from base/clock.h, waiting from task/task.h"
grep -E '\b(pthread_[a-z_]+|thrd_[a-z]+|sem_[a-z]+|sched_yield|syscall)[[:blank:]]*\(' <<<"$outside" |
    rule "threads and waiting come from task/task.h"
grep -E '\b(getrandom|getentropy|rand|random|srand|rand_r|drand48)[[:blank:]]*\(' <<<"$outside" |
    rule "randomness comes from base/random.h"

# --- Shape ---
awk 'FNR == 1 { start = 0 } /^\{/ { start = FNR }
     /^\}/ { if (start && FNR - start > 121 && last !~ /NOLINT/) print FILENAME ":" start ": " FNR - start " lines"; start = 0 }' \
    "${c_files[@]}" | rule "a function ends before line 120: split it"

# --- Error sentences: a capital letter (or a name that is filled in) first, a period last.  A sentence that is
# passed on ("...: %s") ends with its own. ---
awk '
function sentence(file, line, text) {
    if (text == "" || text == "%s") return
    if (text !~ /^[A-Z%]/) print file ":" line ": begins without a capital letter: " text
    if (text !~ /\.$/ && text !~ /: %s$/) print file ":" line ": ends without a period: " text
}
function scan(file, s,    at, line, name, want, i, c, depth, arg, string, text) {
    line = 1
    while (match(s, /(ash_raise(_obj|_sys)?|ash_answer|io__poison_with)[[:space:]]*\(/)) {
        name = substr(s, RSTART, RLENGTH)
        at = substr(s, 1, RSTART + RLENGTH - 1)
        line += gsub(/\n/, "", at)
        want = name ~ /_with/ ? 4 : name ~ /_sys/ ? 3 : name ~ /_obj/ ? 2 : 1 # the argument that is the text
        s = substr(s, RSTART + RLENGTH)
        depth = 1; arg = 0; string = 0; text = ""
        for (i = 1; depth > 0 && i <= 2000; i++) {
            c = substr(s, i, 1)
            if (string) {
                if (c == "\\") { if (arg == want) text = text substr(s, i, 2); i++; continue }
                if (c == "\"") string = 0
                else if (arg == want) text = text c
            } else if (c == "\"") string = 1
            else if (c == "(") depth++
            else if (c == ")") depth--
            else if (c == "," && depth == 1) { if (++arg > want) break }
            else if (arg == want && text != "" && c ~ /[A-Z]/) text = text "n" # PRIu64 and its like
        }
        sentence(file, line, text)
    }
}
FNR == 1 { if (file != "") scan(file, all); file = FILENAME; all = "" }
{ all = all $0 "\n" }
END { scan(file, all) }' $(find src -name '*.c' -o -name '*_int.h') | rule "an error is a full sentence (docs/errors.md)"

# --- Things written in two places ---
in_header=$(grep -oE '^ASH_API .*' include/ashlar.h | grep -oE '\bash_[a-z_]+\(' | tr -d '(' | sort -u)
in_map=$(grep -oE '^ +ash_[a-z_]+;' libashlar.map | tr -d ' ;' | sort -u)
comm -3 <(echo "$in_header") <(echo "$in_map") | tr -d '\t' | rule "is in only one of include/ashlar.h and libashlar.map"
version=$(awk '/define ASH_VERSION_(MAJOR|MINOR|PATCH)/ { v = v (v == "" ? "" : ".") $3 } END { print v }' include/ashlar.h)
[ "$version" = "$(cat VERSION)" ] || rule "differs from ASH_VERSION_* in include/ashlar.h ($version)" <<<"VERSION: $(cat VERSION)"
tools/check-deps . | rule "layers"

# --- Planted bugs: each PLANTED(n) has one row, each row a place and a test ---
planted=$(grep -E '^(src|bench)/' <<<"$all_code" | grep -vE '^src/base/assert\.h' | grep -oE 'PLANTED\([0-9]+\)' | grep -oE '[0-9]+' | sort -u)
rows=$(grep -vE '^#|^[[:space:]]*$' tests/plants.tsv | cut -f1 | sort)
uniq -d <<<"$rows" | grep . | rule "number used twice in tests/plants.tsv"
comm -3 <(echo "$planted" | grep .) <(uniq <<<"$rows" | grep .) | tr -d '\t' | rule "PLANTED(n) and rows of tests/plants.tsv do not match"
while IFS=$'\t' read -r number _ program; do
    [ -f "$program.c" ] || echo "tests/plants.tsv: $number: $program"
done < <(grep -vE '^#|^[[:space:]]*$' tests/plants.tsv) | rule "no such test program (written as tests/mod/test_x)"

# --- Files that the documents name ---
grep -oHnE '`(src|tests|tools|include|docs|bench|embed)/[A-Za-z0-9_./-]+`' README.md docs/*.md src/*/README.md tests/*/README.md bench/README.md 2>/dev/null |
    tr -d '`' | while IFS=: read -r file line path; do
    [[ $path == */mod/* ]] || [ -e "$path" ] || [ -e "$path.c" ] || echo "$file:$line: $path"
done | rule "the document names a file that does not exist"

exit $bad
