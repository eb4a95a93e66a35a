# SPDX-License-Identifier: Apache-2.0
# age.sh DIRECTORY MEBIBYTES: fills DIRECTORY/aged with what tools that copy file systems get wrong, and between the files
# writes and deletes MEBIBYTES of random bytes, so that free blocks are full of old content.
root=$1/aged
garbage=$2
mkdir -p "$root"
cd "$root"

# Files of 0 to 20 KiB; two thirds are deleted again, which leaves free space in small pieces.
small() {
    perl -e '
        my ($first, $count) = @ARGV;
        srand(20260101 + $first);
        my @words = map { join "", map { chr(97 + int rand 26) } 1 .. 3 + int rand 9 } 1 .. 500;
        my $text = join " ", map { $words[int rand @words] } 1 .. 12000;
        for my $n ($first .. $first + $count - 1) {
            my $directory = sprintf "small/%02d", $n % 40;
            mkdir "small"; mkdir $directory;
            open my $file, ">", "$directory/file-$n" or die "$directory/file-$n: $!";
            print $file substr $text, int rand 40000, rand() < 0.1 ? 0 : int rand 20480;
            close $file or die $!;
        }' "$1" "$2"
}

for part in 0 1 2 3; do
    head -c "$((garbage / 4))M" /dev/urandom >"garbage-$part"
    small $((part * 1500)) 1500
    sync -f .
done
rm garbage-0 garbage-2
find small -type f -name '*[1-6]' -delete
small 6000 1000
head -c 24M /dev/urandom >random.bin
sync -f .
rm garbage-1 garbage-3

# Sparse, preallocated, long and odd.
truncate -s 400M sparse.img
for offset in 0 7 4096 100000 399999; do
    printf 'island' | dd of=sparse.img bs=1000 seek=$offset conv=notrunc status=none
done
fallocate -l 8M preallocated.img
printf 'written' | dd of=preallocated.img bs=1M seek=3 conv=notrunc status=none
: >empty
echo long >"$(printf 'n%.0s' {1..250}).txt"
echo odd >$'new\nline and \xc3\xa4 \xff'
mkdir -p deep/{a,b}/c/d/e/f/g/h/i/j many
echo bottom >deep/a/c/d/e/f/g/h/i/j/bottom
perl -e 'for (1 .. 3000) { open my $f, ">", "many/entry-with-a-long-name-so-that-the-index-grows-$_" or die $! }'
perl -e 'for (1 .. 3000) { unlink "many/entry-with-a-long-name-so-that-the-index-grows-$_" if $_ % 7 }'

# Links, special files, owners, modes, times, attributes.
echo linked >one
for link in two three deep/four; do ln one "$link"; done
ln -s one short
ln -s "$(printf '../aged/%.0s' {1..30})one" long
ln -s /nowhere dangling
mkfifo fifo
mknod character c 5 1
mknod block b 259 1048575
cp /bin/true setuid && chmod 6755 setuid
mkdir sticky && chmod 1777 sticky
echo owned >owned && chown 100000:4000000000 owned && chmod 0 owned
touch -d '1969-07-20 20:17:40.123456789 UTC' past
touch -d '2040-02-29 12:00:00.000000001 UTC' future
echo attributes >attributes
setfattr -n user.short -v value attributes
setfattr -n user.long -v "$(head -c 1500 /dev/zero | tr '\0' x)" attributes
setfattr -n trusted.lab -v 0x00ff00 attributes
setfacl -m u:1234:rwx,g:5678:r attributes
setfacl -d -m u:1234:rx sticky
setcap cap_net_raw+ep setuid
sync -f .
