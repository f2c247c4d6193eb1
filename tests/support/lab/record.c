/* Record from a sound card and check the signal of our emulated microphone, or play one.
 *
 * record /dev/snd/pcmC0D0c SECONDS
 * record /dev/snd/pcmC0D0p SECONDS
 *
 * 48 kHz, 16 bits, stereo; sample frame n is n as 32 bits; what is played begins with 1
 * and goes on for a second more, since the last of it is lost when the stream ends.
 * Prints what came, or went: frames, lost (missing numbers), jumps (how often), bad (going
 * back), overruns (or underruns).
 * Plain ioctls, no library: the machine has none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <time.h>
#include <sound/asound.h>

#define RATE 48000
#define PERIOD 480

static void any(struct snd_pcm_hw_params *p)
{
    memset(p, 0, sizeof *p);
    for (int i = 0; i <= SNDRV_PCM_HW_PARAM_LAST_MASK - SNDRV_PCM_HW_PARAM_FIRST_MASK; i++)
        memset(p->masks[i].bits, 0xff, sizeof p->masks[i].bits);
    for (int i = 0; i <= SNDRV_PCM_HW_PARAM_LAST_INTERVAL - SNDRV_PCM_HW_PARAM_FIRST_INTERVAL; i++)
        p->intervals[i].max = ~0u;
    p->rmask = ~0u;
    p->info = ~0u;
}
static void choose(struct snd_pcm_hw_params *p, int which, unsigned bit)
{
    struct snd_mask *m = &p->masks[which - SNDRV_PCM_HW_PARAM_FIRST_MASK];
    memset(m->bits, 0, sizeof m->bits);
    m->bits[bit >> 5] = 1u << (bit & 31);
}
static void set(struct snd_pcm_hw_params *p, int which, unsigned value)
{
    struct snd_interval *i = &p->intervals[which - SNDRV_PCM_HW_PARAM_FIRST_INTERVAL];
    i->min = i->max = value;
    i->integer = 1;
}
static void check(int result, const char *what)
{
    if (result >= 0) return;
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    static uint32_t data[PERIOD];
    static struct snd_pcm_hw_params p;
    long wanted = argc > 2 ? atol(argv[2]) * RATE : 0;
    unsigned long frames = 0, lost = 0, jumps = 0, bad = 0, overruns = 0;
    uint32_t next = 0;
    if (wanted <= 0) return 2;
    int fd = open(argv[1], O_RDWR);
    check(fd, argv[1]);
    any(&p);
    choose(&p, SNDRV_PCM_HW_PARAM_ACCESS, SNDRV_PCM_ACCESS_RW_INTERLEAVED);
    choose(&p, SNDRV_PCM_HW_PARAM_FORMAT, SNDRV_PCM_FORMAT_S16_LE);
    choose(&p, SNDRV_PCM_HW_PARAM_SUBFORMAT, SNDRV_PCM_SUBFORMAT_STD);
    set(&p, SNDRV_PCM_HW_PARAM_CHANNELS, 2);
    set(&p, SNDRV_PCM_HW_PARAM_RATE, RATE);
    set(&p, SNDRV_PCM_HW_PARAM_PERIOD_SIZE, PERIOD);
    set(&p, SNDRV_PCM_HW_PARAM_PERIODS, 64);
    check(ioctl(fd, SNDRV_PCM_IOCTL_HW_PARAMS, &p), "HW_PARAMS");
    check(ioctl(fd, SNDRV_PCM_IOCTL_PREPARE), "PREPARE");
    time_t end = time(NULL) + wanted / RATE + 20;
    if (argv[1][strlen(argv[1]) - 1] == 'p') {
        struct snd_pcm_sw_params soft = {
            .period_step = 1, .avail_min = PERIOD,
            .start_threshold = 32 * PERIOD, .stop_threshold = 64 * PERIOD,
        };
        check(ioctl(fd, SNDRV_PCM_IOCTL_SW_PARAMS, &soft), "SW_PARAMS");
        for (; (long)frames < wanted + RATE && time(NULL) < end; frames += PERIOD) {
            for (long i = 0; i < PERIOD; i++) data[i] = ++next;
            struct snd_xferi x = {.buf = data, .frames = PERIOD};
            while (ioctl(fd, SNDRV_PCM_IOCTL_WRITEI_FRAMES, &x) < 0) {
                if (errno != EPIPE) check(-1, "WRITEI_FRAMES");
                overruns++;
                check(ioctl(fd, SNDRV_PCM_IOCTL_PREPARE), "PREPARE");
            }
        }
        check(ioctl(fd, SNDRV_PCM_IOCTL_DRAIN), "DRAIN");
    }
    while ((long)(frames + lost) < wanted && time(NULL) < end) {
        struct snd_xferi x = {.buf = data, .frames = PERIOD};
        if (ioctl(fd, SNDRV_PCM_IOCTL_READI_FRAMES, &x) < 0) {
            if (errno != EPIPE) check(-1, "READI_FRAMES");
            overruns++;
            check(ioctl(fd, SNDRV_PCM_IOCTL_PREPARE), "PREPARE");
            continue;
        }
        for (long i = 0; i < x.result; i++, frames++) {
            uint32_t n = data[i];
            if (frames && n != next) {
                if (n - next < RATE * 60u) lost += n - next, jumps++;
                else bad++;
            }
            next = n + 1;
        }
    }
    printf("frames=%lu lost=%lu jumps=%lu bad=%lu overruns=%lu\n", frames, lost, jumps, bad, overruns);
    return 0;
}
