// calls: file calls in tight loops, timed one by one or as a whole; one JSON
// object on stdout. Compiled by bench/compare when it starts, run on every side.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kBlock = 4096, kChunk = 1 << 20, kFilesInDirectory = 20, kDirectoriesInGroup = 50 };

static void fail(const char* what) {
  fprintf(stderr, "calls: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

// The same numbers on every side: a fixed seed, xorshift64*.
static uint64_t state = 0x9E3779B97F4A7C15u;
static uint64_t next_random(void) {
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return state * 2685821657736338717u;
}

static int by_value(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static void print_latencies(uint64_t* each, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += each[i];
  qsort(each, count, sizeof *each, by_value);
  printf("{\"seconds\":%.9f,\"p50\":%.9f,\"p99\":%.9f,\"max\":%.9f}\n", (double)sum / 1e9,
         (double)each[count / 2] / 1e9, (double)each[count * 99 / 100] / 1e9, (double)each[count - 1] / 1e9);
}
static void print_seconds(uint64_t begin) { printf("{\"seconds\":%.9f}\n", (double)(now() - begin) / 1e9); }

static void* memory(size_t size) {
  void* made = malloc(size);
  if (!made) fail("memory");
  return made;
}

// Its name in a tree of make_tree(), below the tree.
static void file_name(char* into, size_t size, size_t number) {
  const size_t directory = number / kFilesInDirectory;
  snprintf(into, size, "g%03zu/d%02zu/file%02zu.c", directory / kDirectoriesInGroup, directory % kDirectoriesInGroup,
           number % kFilesInDirectory);
}

static void make_directory(const char* path) {
  if (mkdir(path, 0755) < 0 && errno != EEXIST) fail(path);
}

// COUNT files of up to MOST bytes of text (0 = empty), 20 in a directory.
static void make_tree(const char* at, size_t count, size_t most) {
  char path[4096], name[64], text[65536];
  if (most > sizeof text) most = sizeof text;
  for (size_t i = 0; i < sizeof text; ++i) text[i] = i % 64 == 63 ? '\n' : (char)('a' + next_random() % 26);
  make_directory(at);
  for (size_t i = 0; i < count; ++i) {
    file_name(name, sizeof name, i);
    if (i % kFilesInDirectory == 0) {
      snprintf(path, sizeof path, "%s/%.4s", at, name);
      make_directory(path);
      snprintf(path, sizeof path, "%s/%.8s", at, name);
      make_directory(path);
    }
    snprintf(path, sizeof path, "%s/%s", at, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) fail(path);
    const size_t size = most ? 1 + next_random() % most : 0;
    const size_t from = most ? next_random() % (sizeof text - size + 1) : 0;
    if (size && write(fd, text + from, size) != (ssize_t)size) fail(path);
    close(fd);
  }
}

static void time_stats(const char* tree, size_t files, size_t count) {
  char path[4096], name[64];
  struct stat st;
  uint64_t* each = memory(count * sizeof *each);
  for (size_t i = 0; i < files + count; ++i) {   // once each, unmeasured
    file_name(name, sizeof name, i < files ? i : next_random() % files);
    snprintf(path, sizeof path, "%s/%s", tree, name);
    const uint64_t begin = now();
    if (lstat(path, &st) < 0) fail(path);
    if (i >= files) each[i - files] = now() - begin;
  }
  print_latencies(each, count);
}

static void time_opens(const char* tree, size_t files, size_t count) {
  char path[4096], name[64], into[kBlock];
  uint64_t* each = memory(count * sizeof *each);
  for (size_t i = 0; i < files + count; ++i) {
    file_name(name, sizeof name, i < files ? i : next_random() % files);
    snprintf(path, sizeof path, "%s/%s", tree, name);
    const uint64_t begin = now();
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(path);
    if (read(fd, into, sizeof into) < 0) fail(path);
    close(fd);
    if (i >= files) each[i - files] = now() - begin;
  }
  print_latencies(each, count);
}

static void time_read(const char* path) {
  char* into = memory(kChunk);
  const uint64_t begin = now();
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path);
  for (ssize_t n; (n = read(fd, into, kChunk)) != 0;)
    if (n < 0) fail(path);
  close(fd);
  print_seconds(begin);
}

static void fill(char* block, size_t size) {
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t bits = next_random();
    memcpy(block + i, &bits, 8);
  }
}

static void time_write(const char* path, size_t megabytes) {
  char* from = memory(kChunk);
  fill(from, kChunk);
  const uint64_t begin = now();
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(path);
  for (size_t i = 0; i < megabytes; ++i)
    if (write(fd, from, kChunk) != kChunk) fail(path);
  if (fsync(fd) < 0) fail(path);
  close(fd);
  print_seconds(begin);
}

static void time_random(const char* path, size_t count, int writing) {
  char block[kBlock];
  fill(block, sizeof block);
  const int fd = open(path, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < kBlock) fail(path);
  const uint64_t blocks = (uint64_t)st.st_size / kBlock;
  const uint64_t begin = now();
  for (size_t i = 0; i < count; ++i) {
    const off_t at = (off_t)(next_random() % blocks * kBlock);
    const ssize_t done = writing ? pwrite(fd, block, kBlock, at) : pread(fd, block, kBlock, at);
    if (done != kBlock) fail(path);
  }
  if (writing && fsync(fd) < 0) fail(path);
  close(fd);
  print_seconds(begin);
}

// What one of the four does: half of it looks and reads, half makes, renames and removes.
static void mix(const char* tree, size_t files, const char* scratch, size_t count, size_t who) {
  char path[4096], other[4096], name[64], block[kBlock];
  struct stat st;
  state += who * 7919;
  for (size_t i = 0; i < count; ++i) {
    file_name(name, sizeof name, next_random() % files);
    snprintf(path, sizeof path, "%s/%s", tree, name);
    int fd = -1;
    switch (next_random() % 4) {
      case 0:
        if (lstat(path, &st) < 0) fail(path);
        break;
      case 1:
        if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 || read(fd, block, kBlock) < 0) fail(path);
        close(fd);
        break;
      case 2:
        snprintf(path, sizeof path, "%s/w%zu-%zu", scratch, who, i);
        snprintf(other, sizeof other, "%s/w%zu-%zu.new", scratch, who, i);
        if ((fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) < 0) fail(path);
        if (write(fd, block, 1000) != 1000) fail(path);
        close(fd);
        if (rename(path, other) < 0 || unlink(other) < 0) fail(path);
        break;
      default: {
        snprintf(path, sizeof path, "%s/%.8s", tree, name);
        DIR* listing = opendir(path);
        if (!listing) fail(path);
        while (readdir(listing)) {}
        closedir(listing);
      }
    }
  }
}

static void time_mixed(const char* tree, size_t files, const char* scratch, size_t count) {
  make_directory(scratch);
  const uint64_t begin = now();
  pid_t children[4];
  for (size_t who = 0; who < 4; ++who) {
    children[who] = fork();
    if (children[who] < 0) fail("fork");
    if (children[who] == 0) {
      mix(tree, files, scratch, count, who);
      _exit(0);
    }
  }
  int bad = 0;
  for (size_t who = 0; who < 4; ++who) {
    int status = 0;
    waitpid(children[who], &status, 0);
    bad |= status;
  }
  if (bad) exit(1);
  print_seconds(begin);
  if (rmdir(scratch) < 0) fail(scratch);
}

// Opens the file whenever it may and reads it until it may not, until stdin ends.
static void hold(const char* path) {
  char block[kBlock];
  fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
  for (char byte; read(STDIN_FILENO, &byte, 1) != 0;) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
      while (pread(fd, block, sizeof block, 0) >= 0) usleep(50);
      close(fd);
    } else {
      usleep(500);
    }
  }
}

int main(int count, char** words) {
#define CALL(name, arguments) (count == 2 + (arguments) && strcmp(words[1], name) == 0)
#define NUMBER(index) strtoull(words[index], NULL, 10)
  if (CALL("make-tree", 3)) return make_tree(words[2], NUMBER(3), NUMBER(4)), 0;
  if (CALL("stat", 3)) return time_stats(words[2], NUMBER(3), NUMBER(4)), 0;
  if (CALL("open", 3)) return time_opens(words[2], NUMBER(3), NUMBER(4)), 0;
  if (CALL("read", 1)) return time_read(words[2]), 0;
  if (CALL("write", 2)) return time_write(words[2], NUMBER(3)), 0;
  if (CALL("random-read", 2)) return time_random(words[2], NUMBER(3), 0), 0;
  if (CALL("random-write", 2)) return time_random(words[2], NUMBER(3), 1), 0;
  if (CALL("mixed", 4)) return time_mixed(words[2], NUMBER(3), words[4], NUMBER(5)), 0;
  if (CALL("hold", 1)) return hold(words[2]), 0;
  fprintf(stderr, "calls: unknown call or a wrong number of arguments\n");
  return 2;
}
