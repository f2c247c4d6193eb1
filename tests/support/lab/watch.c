/* Take pictures from a video device and check those of our emulated camera.
 *
 * watch /dev/video0 SECONDS
 *
 * Motion JPEG; picture n is a comment with n and a pattern that depends on it. Prints
 * what came: pictures, bad (not as they should be), missing numbers, milliseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <linux/videodev2.h>

#define SIZE 12000
#define BUFFERS 8

static void check(int result, const char *what)
{
    if (result >= 0) return;
    perror(what);
    exit(1);
}
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
/* Its number, or -1. */
static long number(const uint8_t *p, unsigned used)
{
    static const uint8_t head[] = {0xff, 0xd8, 0xff, 0xfe, (SIZE - 6) >> 8, (SIZE - 6) & 0xff};
    if (used != SIZE || memcmp(p, head, 6) || p[SIZE - 2] != 0xff || p[SIZE - 1] != 0xd9) return -1;
    uint32_t n = (uint32_t)p[6] << 24 | p[7] << 16 | p[8] << 8 | p[9];
    for (unsigned i = 10; i < SIZE - 2; i++)
        if (p[i] != (n % 251 + i - 10) % 251) return -1;
    return n;
}

int main(int argc, char **argv)
{
    unsigned long pictures = 0, bad = 0, missing = 0;
    long last = -1;
    double seconds = argc > 2 ? atof(argv[2]) : 0, begun = 0;
    uint8_t *memory[BUFFERS];
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    if (seconds <= 0) return 2;
    int fd = open(argv[1], O_RDWR);
    check(fd, argv[1]);
    struct v4l2_format f = {.type = type};
    f.fmt.pix.width = 320;
    f.fmt.pix.height = 240;
    f.fmt.pix.pixelformat = V4L2_PIX_FMT_MJPEG;
    check(ioctl(fd, VIDIOC_S_FMT, &f), "S_FMT");
    struct v4l2_requestbuffers r = {.count = BUFFERS, .type = type, .memory = V4L2_MEMORY_MMAP};
    check(ioctl(fd, VIDIOC_REQBUFS, &r), "REQBUFS");
    for (unsigned i = 0; i < r.count && i < BUFFERS; i++) {
        struct v4l2_buffer b = {.index = i, .type = type, .memory = V4L2_MEMORY_MMAP};
        check(ioctl(fd, VIDIOC_QUERYBUF, &b), "QUERYBUF");
        memory[i] = mmap(NULL, b.length, PROT_READ, MAP_SHARED, fd, b.m.offset);
        if (memory[i] == MAP_FAILED) check(-1, "mmap");
        check(ioctl(fd, VIDIOC_QBUF, &b), "QBUF");
    }
    check(ioctl(fd, VIDIOC_STREAMON, &type), "STREAMON");
    double end = now() + seconds + 20;
    while (now() < end && (!begun || now() - begun < seconds)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 1000) <= 0) continue;
        struct v4l2_buffer b = {.type = type, .memory = V4L2_MEMORY_MMAP};
        if (ioctl(fd, VIDIOC_DQBUF, &b) < 0) {
            if (errno == EAGAIN) continue;
            check(-1, "DQBUF");
        }
        long n = number(memory[b.index], b.bytesused);
        if (!begun) begun = now(); /* the first may be half a picture */
        else if (n < 0) bad++;
        else {
            pictures++;
            if (last >= 0 && n > last) missing += n - last - 1;
            last = n;
        }
        check(ioctl(fd, VIDIOC_QBUF, &b), "QBUF");
    }
    printf("pictures=%lu bad=%lu missing=%lu ms=%.0f\n", pictures, bad, missing, begun ? (now() - begun) * 1000 : 0);
    return 0;
}
