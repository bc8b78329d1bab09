/* alearn.h: stream the time steps of a simulation to its learner. One file, POSIX C99 (or C++11), no library; for
 * encrypted streams (transport.kind=tcp) OpenSSL 1.1.1 or newer: -DALEARN_TLS, and -lssl -lcrypto at the end.
 *
 *     #include "alearn.h"                              first of all includes, or compile with -D_POSIX_C_SOURCE=200809L
 *
 *     int main(void) {
 *         alearn_run *run = alearn_connect();
 *         double kappa = alearn_parameter(run, "kappa", 0.1);
 *         alearn_field fields[] = {{"u", ALEARN_FLOAT64, u, 2, {ny, nx}, "K"}, {"energy", ALEARN_FLOAT64, &energy, 0, {0}, ""}};
 *         for (int step = 0; step < 200 && !alearn_stopped(run); step++) {
 *             advance(u, kappa);
 *             if (alearn_put(run, time, fields, 2) != ALEARN_OK) break;
 *         }
 *         return alearn_close(run, NULL) == ALEARN_OK ? 0 : 1;
 *     }
 *
 * Outside a study, that is without ALEARN_STREAM in the environment, the program runs by itself with the default
 * parameters and sends nothing. What goes wrong is said in one sentence, on stderr and in run->message. A run belongs
 * to one thread of one process; under MPI only rank 0 streams. The bytes on the wire: docs/wire.md.
 */
#ifndef ALEARN_H
#define ALEARN_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef ALEARN_TLS
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "alearn.h sends arrays as they lie in memory, which must be little endian; use the Python client here."
#endif

enum { ALEARN_OK = 0, ALEARN_STOPPED = 1, ALEARN_ERROR = -1 };
enum { ALEARN_MAX_DIMS = 15 };

typedef enum {
    ALEARN_FLOAT64, ALEARN_FLOAT32, ALEARN_FLOAT16, ALEARN_INT64, ALEARN_INT32, ALEARN_INT16, ALEARN_INT8,
    ALEARN_UINT64, ALEARN_UINT32, ALEARN_UINT16, ALEARN_UINT8, ALEARN_BOOL /* one byte, 0 or 1 */
} alearn_dtype;

/* One value of every step: contiguous, the last index running fastest. A number has ndim 0. */
typedef struct {
    const char *name;
    alearn_dtype dtype;
    const void *data;
    int ndim;
    int64_t shape[ALEARN_MAX_DIMS];
    const char *unit; /* NULL is none */
} alearn_field;

typedef struct alearn_entry alearn_entry;

typedef struct {
    /* to be read */
    char member[256];
    int attempt;
    const char *parameters; /* JSON; NULL outside a study */
    uint64_t acknowledged;  /* steps that the learner has; certain after the first alearn_put */
    int error;              /* 1 after anything went wrong for good; message says what */
    char message[1024];
    /* to be set before the first alearn_put, if known */
    uint64_t steps_total;
    /* number of the next step; a code that restarts from its own checkpoint sets it to at most `acknowledged` */
    uint64_t step;
    /* private */
    char address[512], why[512], session[33];
    unsigned char key[256];
    size_t key_length, window, window_bytes, body_bytes;
    double deadline_s, reconnect_s, lost_since, progress, heard;
    char *text, *schema;
    alearn_field *fields;
    int count;
    uint64_t next;
    alearn_entry *first, *last, *sending, *spare;
    size_t sent, out_length, out_sent, in_length;
    char *out;
    unsigned char *in;
    int fd, alone, sealed, stop, told, ended, ending, opened, welcomed, tries;
    char **wishes; /* what alearn steer gave, as JSON objects, in the order of coming */
    size_t wishes_count, wishes_taken;
    uint64_t wish, taken, taken_at;
    int tell;
    unsigned char certificate[32];
#ifdef ALEARN_TLS
    SSL_CTX *context;
    BIO_METHOD *method;
    SSL *tls;
#endif
    long pid;
    unsigned char seal_out[32], seal_in[32];
    uint64_t sealed_out, sealed_in;
} alearn_run;

/* Open this member's run from the environment that the launcher set. Never NULL, but for want of memory. */
static inline alearn_run *alearn_connect(void);

/* A parameter of this member; `otherwise` outside a study. A name that the study does not have is an error (NaN). */
static inline double alearn_parameter(alearn_run *run, const char *name, double otherwise);

/* Send the next step; the values are copied. Waits while too much is unacknowledged.
 * ALEARN_OK; ALEARN_STOPPED: leave the loop, the learner asks this member to stop; ALEARN_ERROR: see run->message. */
static inline int alearn_put(alearn_run *run, double t, const alearn_field *fields, int count);

/* 1 once the learner has asked this member to stop. */
static inline int alearn_stopped(alearn_run *run);

/* What a knob of the simulation is to be from now on: `otherwise`, its present value, unless somebody has steered it
 * (alearn steer DIR MEMBER name=value). For codes that can be steered while they run:  dt = alearn_steered(run, "dt", dt); */
static inline double alearn_steered(alearn_run *run, const char *name, double otherwise);

/* Wait until every step is acknowledged, say the end, free the run. `failure` is NULL, or one line on what went wrong.
 * ALEARN_ERROR (with a sentence on stderr) if the learner could not be told: exit with a code other than 0. */
static inline int alearn_close(alearn_run *run, const char *failure);

/* ---- nothing below is for callers ---------------------------------------------------------------------------- */

enum { ALEARN__HELLO = 1, ALEARN__WELCOME, ALEARN__STEP, ALEARN__ACK, ALEARN__STOP, ALEARN__END, ALEARN__FAULT,
       ALEARN__CHALLENGE, ALEARN__PROOF, ALEARN__STEER, ALEARN__STEERED };
enum { ALEARN__HEADER = 24, ALEARN__SEAL = 16, ALEARN__HEAD_LIMIT = 65536, ALEARN__IN = 24 + 65536 + 16, ALEARN__SPARE = 8 };
/* what one look at the connection tells */
enum { ALEARN__FINE = 0, ALEARN__LOST = -1, ALEARN__REFUSED = -2 };

struct alearn_entry {
    alearn_entry *next;
    uint64_t step;
    size_t length;
    unsigned char head[ALEARN__HEADER + 16], seal[ALEARN__SEAL];
    unsigned char body[];
};

static const struct { const char *name; size_t bytes; } alearn__dtypes[] = {
    {"float64", 8}, {"float32", 4}, {"float16", 2}, {"int64", 8}, {"int32", 4}, {"int16", 2}, {"int8", 1},
    {"uint64", 8}, {"uint32", 4}, {"uint16", 2}, {"uint8", 1}, {"bool", 1}};

/* -- sums and codes: CRC-32, SHA-256 (FIPS 180-4), HMAC (RFC 2104), BLAKE2b (RFC 7693) -- */

static inline uint32_t alearn__crc(uint32_t crc, const unsigned char *data, size_t n) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    crc = ~crc;
    while (n--) {
        crc ^= *data++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static inline void alearn__sha256_block(uint32_t h[8], const unsigned char *p) {
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
#define ALEARN__ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))
    for (; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ALEARN__ROR(a, 7) ^ ALEARN__ROR(a, 18) ^ a >> 3) +
               (ALEARN__ROR(b, 17) ^ ALEARN__ROR(b, 19) ^ b >> 10);
    }
    memcpy(s, h, 32);
    for (i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t x = s[7] + (ALEARN__ROR(e, 6) ^ ALEARN__ROR(e, 11) ^ ALEARN__ROR(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t y = (ALEARN__ROR(a, 2) ^ ALEARN__ROR(a, 13) ^ ALEARN__ROR(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 28);
        s[4] += x;
        s[0] = x + y;
    }
#undef ALEARN__ROR
    for (i = 0; i < 8; i++) h[i] += s[i];
}

/* SHA-256 of a short text behind an optional first block (that of HMAC). */
static inline void alearn__sha256(unsigned char out[32], const unsigned char *block, const unsigned char *data, size_t n) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint64_t bits = 8 * ((uint64_t)n + (block ? 64 : 0));
    unsigned char tail[128] = {0};
    size_t i, end;
    if (block) alearn__sha256_block(h, block);
    for (; n >= 64; n -= 64, data += 64) alearn__sha256_block(h, data);
    if (n) memcpy(tail, data, n);
    tail[n] = 0x80;
    end = n < 56 ? 64 : 128;
    for (i = 0; i < 8; i++) tail[end - 1 - i] = (unsigned char)(bits >> 8 * i);
    for (i = 0; i < end; i += 64) alearn__sha256_block(h, tail + i);
    for (i = 0; i < 32; i++) out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* Whether the stream is encrypted. */
static inline int alearn__secret(const alearn_run *run) { return !strncmp(run->address, "tls:", 4); }

/* HMAC-SHA256(key, label + side + reader's nonce + writer's nonce), under TLS + SHA-256 of the reader's certificate */
static inline void alearn__hmac(unsigned char out[32], const alearn_run *run, const char *label, const char *side,
                                const unsigned char *theirs, const unsigned char *ours) {
    unsigned char block[64] = {0}, inner[32], text[128];
    size_t i, n = (size_t)snprintf((char *)text, sizeof text, "%s%s", label, side);
    memcpy(text + n, theirs, 32);
    memcpy(text + n + 32, ours, 32);
    n += 64;
    if (alearn__secret(run)) {
        memcpy(text + n, run->certificate, 32);
        n += 32;
    }
    if (run->key_length > 64) alearn__sha256(block, NULL, run->key, run->key_length);
    else memcpy(block, run->key, run->key_length);
    for (i = 0; i < 64; i++) block[i] ^= 0x36;
    alearn__sha256(inner, block, text, n);
    for (i = 0; i < 64; i++) block[i] ^= 0x36 ^ 0x5c;
    alearn__sha256(out, block, inner, 32);
}

typedef struct { uint64_t h[8], bytes; unsigned char block[128]; size_t filled; } alearn__blake;

static inline void alearn__blake_block(alearn__blake *b, const unsigned char *p, int final) {
    static const uint64_t iv[8] = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
                                   0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};
    static const unsigned char sigma[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
    uint64_t v[16], m[16];
    int i;
    memcpy(m, p, 128);
    memcpy(v, b->h, 64);
    memcpy(v + 8, iv, 64);
    v[12] ^= b->bytes;
    if (final) v[14] = ~v[14];
#define ALEARN__ROR(x, n) ((x) >> (n) | (x) << (64 - (n)))
#define ALEARN__MIX(a, b, c, d, x, y) \
    (v[a] += v[b] + (x), v[d] = ALEARN__ROR(v[d] ^ v[a], 32), v[c] += v[d], v[b] = ALEARN__ROR(v[b] ^ v[c], 24), \
     v[a] += v[b] + (y), v[d] = ALEARN__ROR(v[d] ^ v[a], 16), v[c] += v[d], v[b] = ALEARN__ROR(v[b] ^ v[c], 63))
    for (i = 0; i < 12; i++) {
        const unsigned char *s = sigma[i % 10];
        ALEARN__MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
        ALEARN__MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
        ALEARN__MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
        ALEARN__MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
        ALEARN__MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
        ALEARN__MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
        ALEARN__MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
        ALEARN__MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
#undef ALEARN__MIX
#undef ALEARN__ROR
    for (i = 0; i < 8; i++) b->h[i] ^= v[i] ^ v[i + 8];
}

static inline void alearn__blake_add(alearn__blake *b, const unsigned char *data, size_t n) {
    while (n) {
        size_t take;
        if (b->filled == 128) { /* the last block waits, for it is treated apart */
            b->bytes += 128;
            alearn__blake_block(b, b->block, 0);
            b->filled = 0;
        }
        if (!b->filled && n > 128) { /* whole blocks need no copy */
            b->bytes += 128;
            alearn__blake_block(b, data, 0);
            data += 128;
            n -= 128;
            continue;
        }
        take = n < 128 - b->filled ? n : 128 - b->filled;
        memcpy(b->block + b->filled, data, take);
        b->filled += take;
        data += take;
        n -= take;
    }
}

/* The 16 bytes that end frame number `count` of a direction: a frame of two parts. */
static inline void alearn__seal(unsigned char out[ALEARN__SEAL], const unsigned char key[32], uint64_t count,
                                const unsigned char *head, size_t head_length, const unsigned char *body, size_t body_length) {
    alearn__blake b = {{0x6a09e667f3bcc908u ^ 0x01010000u ^ 32u << 8 ^ ALEARN__SEAL, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu,
                        0xa54ff53a5f1d36f1u, 0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u},
                       0, {0}, 128};
    memcpy(b.block, key, 32);
    alearn__blake_add(&b, (const unsigned char *)&count, 8);
    alearn__blake_add(&b, head, head_length);
    alearn__blake_add(&b, body, body_length);
    b.bytes += b.filled;
    memset(b.block + b.filled, 0, 128 - b.filled);
    alearn__blake_block(&b, b.block, 1);
    memcpy(out, b.h, ALEARN__SEAL);
}

static inline int alearn__differ(const unsigned char *a, const unsigned char *b, size_t n) { /* in constant time */
    unsigned char all = 0;
    while (n--) all |= (unsigned char)(*a++ ^ *b++);
    return all;
}

/* -- small things -- */

static inline double alearn__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline int alearn__fail(alearn_run *run, const char *format, ...) {
    if (!run->error) { /* the first sentence is the one that matters */
        va_list args;
        va_start(args, format);
        vsnprintf(run->message, sizeof run->message, format, args);
        va_end(args);
        run->error = 1;
        fprintf(stderr, "alearn: %s\n", run->message);
    }
    return ALEARN_ERROR;
}

static inline void alearn__because(alearn_run *run, const char *why) { snprintf(run->why, sizeof run->why, "%s", why); }

/* Append to a text that grows; 0 if there is no memory. */
static inline int alearn__add(char **text, size_t *length, const char *data, size_t n) {
    char *grown = (char *)realloc(*text, *length + n + 1);
    if (!grown) return 0;
    memcpy(grown + *length, data, n);
    grown[*length += n] = 0;
    *text = grown;
    return 1;
}

static inline int alearn__say(char **text, size_t *length, const char *data) { return alearn__add(text, length, data, strlen(data)); }

/* Append as a JSON string. */
static inline int alearn__quote(char **text, size_t *length, const char *data) {
    int fine = alearn__say(text, length, "\"");
    for (; *data && fine; data++) {
        char escaped[8];
        unsigned char c = (unsigned char)*data;
        if (c == '"' || c == '\\' || c < 0x20) snprintf(escaped, sizeof escaped, "\\u%04x", c);
        else escaped[0] = *data, escaped[1] = 0;
        fine = alearn__say(text, length, escaped);
    }
    return fine && alearn__say(text, length, "\"");
}

static inline size_t alearn__frame(unsigned char *out, int kind, size_t body, const void *head, size_t n) {
    uint32_t head_length = (uint32_t)n, crc;
    uint64_t body_length = body;
    memcpy(out, "ALRN", 4);
    out[4] = (unsigned char)kind;
    out[5] = out[6] = out[7] = 0;
    memcpy(out + 8, &head_length, 4);
    memcpy(out + 12, &body_length, 8);
    crc = alearn__crc(alearn__crc(0, out, 20), (const unsigned char *)head, n);
    memcpy(out + 20, &crc, 4);
    memcpy(out + ALEARN__HEADER, head, n);
    return ALEARN__HEADER + n;
}

/* Put a frame without body in line. */
static inline int alearn__queue(alearn_run *run, int kind, const void *head, size_t n) {
    unsigned char *frame = (unsigned char *)malloc(ALEARN__HEADER + n + ALEARN__SEAL);
    size_t length;
    int fine;
    if (!frame) return alearn__fail(run, "There is no memory left for a message to the learner.");
    length = alearn__frame(frame, kind, 0, head, n);
    if (run->sealed) {
        alearn__seal(frame + length, run->seal_out, run->sealed_out++, frame, length, NULL, 0);
        length += ALEARN__SEAL;
    }
    fine = alearn__add(&run->out, &run->out_length, (char *)frame, length);
    free(frame);
    return fine ? ALEARN_OK : alearn__fail(run, "There is no memory left for a message to the learner.");
}

/* -- the parameters' JSON -- */

static inline const char *alearn__blank(const char *p) {
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
    return p;
}

static inline int alearn__hex4(const char *p, unsigned *value) {
    int i;
    for (*value = 0, i = 0; i < 4; i++, p++) {
        if (!*p || !strchr("0123456789abcdefABCDEF", *p)) return 0;
        *value = *value << 4 | (unsigned)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
    }
    return 1;
}

/* Read a string into `out` (as UTF-8, cut to its size); returns what follows, or NULL. */
static inline const char *alearn__string(const char *p, char *out, size_t size) {
    size_t n = 0;
    if (*p++ != '"') return NULL;
    while (*p != '"') {
        unsigned c = (unsigned char)*p++, low;
        char bytes[5] = {0};
        size_t i;
        if (c < 0x20) return NULL;
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char *at = *p ? strchr(from, *p) : NULL;
            if (at) bytes[0] = to[at - from], p++;
            else if (*p == 'u' && alearn__hex4(p + 1, &c)) {
                p += 5;
                if (c >= 0xd800 && c < 0xdc00 && p[0] == '\\' && p[1] == 'u' && alearn__hex4(p + 2, &low) && low >= 0xdc00 && low < 0xe000) {
                    c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                    p += 6;
                }
                if (c < 0x80) bytes[0] = (char)c;
                else if (c < 0x800) bytes[0] = (char)(0xc0 | c >> 6), bytes[1] = (char)(0x80 | (c & 63));
                else if (c < 0x10000)
                    bytes[0] = (char)(0xe0 | c >> 12), bytes[1] = (char)(0x80 | (c >> 6 & 63)), bytes[2] = (char)(0x80 | (c & 63));
                else
                    bytes[0] = (char)(0xf0 | c >> 18), bytes[1] = (char)(0x80 | (c >> 12 & 63)),
                    bytes[2] = (char)(0x80 | (c >> 6 & 63)), bytes[3] = (char)(0x80 | (c & 63));
            } else return NULL;
        } else bytes[0] = (char)c;
        for (i = 0; bytes[i]; i++)
            if (n + 1 < size) out[n++] = bytes[i];
    }
    if (size) out[n] = 0;
    return p + 1;
}

/* Skip a value; returns what follows, or NULL. */
static inline const char *alearn__skip(const char *p, int depth) {
    p = alearn__blank(p);
    if (*p == '"') return alearn__string(p, NULL, 0);
    if (*p == '{' || *p == '[') {
        char close = *p == '{' ? '}' : ']';
        if (depth > 64) return NULL;
        p = alearn__blank(p + 1);
        if (*p == close) return p + 1;
        for (;;) {
            if (close == '}') {
                p = alearn__string(alearn__blank(p), NULL, 0);
                if (!p || *(p = alearn__blank(p)) != ':') return NULL;
                p++;
            }
            p = alearn__skip(p, depth + 1);
            if (!p) return NULL;
            p = alearn__blank(p);
            if (*p == close) return p + 1;
            if (*p++ != ',') return NULL;
        }
    }
    {
        const char *end = p + strcspn(p, ",]} \t\r\n");
        return end == p ? NULL : end;
    }
}

/* The value of a name in an object; without it NULL, and the names that there are. */
static inline const char *alearn__find(const char *object, const char *name, char *names, size_t size) {
    const char *p = alearn__blank(alearn__blank(object) + 1);
    size_t n = 0;
    if (size) names[0] = 0;
    while (*p == '"') {
        char key[256];
        p = alearn__blank(alearn__string(p, key, sizeof key)) + 1;
        p = alearn__blank(p);
        if (!strcmp(key, name)) return p;
        if (n < size) n += (size_t)snprintf(names + n, size - n, "%s%s", n ? ", " : "", key);
        p = alearn__blank(alearn__skip(p, 1));
        if (*p == ',') p = alearn__blank(p + 1);
    }
    return NULL;
}

/* -- the connection -- */

static inline void alearn__drop(alearn_run *run) {
#ifdef ALEARN_TLS
    SSL_free(run->tls);
    run->tls = NULL;
#endif
    if (run->fd >= 0) close(run->fd);
    run->fd = -1;
    run->sealed = 0;
    run->sealed_out = run->sealed_in = 0;
    run->out_length = run->out_sent = run->in_length = run->sent = 0;
    run->sending = NULL;
}

static inline int alearn__lost(alearn_run *run, const char *why) {
    alearn__because(run, why);
    alearn__drop(run);
    return ALEARN__LOST;
}

static inline int alearn__unsent(const alearn_run *run) { return run->out_sent < run->out_length || run->sending != NULL; }

/* Hand some of these parts to the kernel; as sendmsg. */
static inline ssize_t alearn__give(alearn_run *run, struct iovec *parts, size_t n) {
    struct msghdr message;
#ifdef ALEARN_TLS
    if (run->tls) {
        int took, error;
        while (n > 1 && !parts->iov_len) parts++, n--;
        ERR_clear_error();
        took = SSL_write(run->tls, parts->iov_base, parts->iov_len > INT_MAX ? INT_MAX : (int)parts->iov_len);
        if (took > 0) return took;
        error = SSL_get_error(run->tls, took);
        errno = error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? EAGAIN : EPIPE;
        return -1;
    }
#endif
    memset(&message, 0, sizeof message);
    message.msg_iov = parts;
    message.msg_iovlen = n;
    return sendmsg(run->fd, &message, MSG_NOSIGNAL);
}

/* Send what the kernel takes now. */
static inline int alearn__send(alearn_run *run) {
    while (alearn__unsent(run)) {
        struct iovec parts[4];
        alearn_entry *e = run->sending;
        size_t skip = run->sent, n = 0, i;
        ssize_t took;
        if (run->out_sent < run->out_length) {
            parts[n].iov_base = run->out + run->out_sent;
            parts[n++].iov_len = run->out_length - run->out_sent;
        }
        if (e) {
            if (!skip && run->sealed) /* the seal knows the frame's number on this connection */
                alearn__seal(e->seal, run->seal_out, run->sealed_out, e->head, sizeof e->head, e->body, e->length);
            parts[n].iov_base = e->head, parts[n++].iov_len = sizeof e->head;
            parts[n].iov_base = e->body, parts[n++].iov_len = e->length;
            parts[n].iov_base = e->seal, parts[n++].iov_len = run->sealed ? ALEARN__SEAL : 0;
            for (i = n - 3; i < n; i++) {
                size_t less = skip < parts[i].iov_len ? skip : parts[i].iov_len;
                parts[i].iov_base = (char *)parts[i].iov_base + less;
                parts[i].iov_len -= less;
                skip -= less;
            }
        }
        took = alearn__give(run, parts, n);
        if (took < 0 && errno == EINTR) continue;
        if (took < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? ALEARN__FINE : ALEARN__LOST;
        if (run->out_sent < run->out_length) {
            size_t less = run->out_length - run->out_sent < (size_t)took ? run->out_length - run->out_sent : (size_t)took;
            run->out_sent += less;
            took -= (ssize_t)less;
            if (run->out_sent == run->out_length) run->out_sent = run->out_length = 0;
        }
        if (e) {
            run->sent += (size_t)took;
            if (run->sent == sizeof e->head + e->length + (run->sealed ? ALEARN__SEAL : 0)) {
                run->sealed_out += (uint64_t)run->sealed;
                run->sending = e->next;
                run->sent = 0;
            }
        }
    }
    return ALEARN__FINE;
}

static inline void alearn__poll(alearn_run *run, double wait_s) {
    struct pollfd p;
    p.fd = run->fd;
    p.events = (short)(POLLIN | (alearn__unsent(run) ? POLLOUT : 0));
    poll(&p, 1, wait_s > 0 ? (int)ceil(wait_s * 1000) : 0);
}

/* Forget what is acknowledged, and keep a few buffers for the next steps. */
static inline void alearn__forget(alearn_run *run, uint64_t steps) {
    while (run->first && run->first->step < steps && run->first != run->sending) {
        alearn_entry *e = run->first;
        int n = 0;
        alearn_entry *s;
        run->first = e->next;
        if (!run->first) run->last = NULL;
        run->window_bytes -= e->length;
        for (s = run->spare; s; s = s->next) n++;
        if (n < ALEARN__SPARE) e->next = run->spare, run->spare = e;
        else free(e);
    }
}

static inline int alearn__refused(alearn_run *run, const char *head) {
    char reason[400] = "the reader sent an error that cannot be read";
    const char *value;
    int final = 1;
    if (*alearn__blank(head) == '{' && alearn__skip(head, 0)) {
        value = alearn__find(head, "reason", NULL, 0);
        if (value && *value == '"') alearn__string(value, reason, sizeof reason);
        value = alearn__find(head, "final", NULL, 0);
        final = !value || strncmp(value, "false", 5) != 0;
    }
    if (!final) return alearn__lost(run, reason);
    alearn__drop(run);
    alearn__fail(run, "The learner refused the stream of member %s: %s.", run->member, reason);
    return ALEARN__REFUSED;
}

/* Keep values that somebody steers this member to; after a reconnection some come again. */
static inline int alearn__wish(alearn_run *run, const char *head, size_t n) {
    const char *number = NULL, *values = NULL;
    char **grown, *text;
    if (*alearn__blank(head) == '{' && alearn__skip(head, 0)) {
        number = alearn__find(head, "number", NULL, 0);
        values = alearn__find(head, "values", NULL, 0);
    }
    if (!number || !values || *values != '{') return alearn__lost(run, "the reader sent values to steer by that cannot be read");
    if (strtoull(number, NULL, 10) <= run->wish) return ALEARN__FINE;
    text = (char *)malloc(n + 1);
    grown = (char **)realloc(run->wishes, (run->wishes_count + 1) * sizeof *grown);
    if (grown) run->wishes = grown;
    if (!grown || !text) {
        free(text);
        return alearn__lost(run, "there is no memory left for values to steer by");
    }
    strcpy(text, values);
    run->wishes[run->wishes_count++] = text;
    run->wish = strtoull(number, NULL, 10);
    return ALEARN__FINE;
}

/* Act on a frame from the reader. */
static inline int alearn__handle(alearn_run *run, int kind, const unsigned char *head, size_t n) {
    run->heard = alearn__now();
    if (kind == ALEARN__WELCOME || kind == ALEARN__ACK) {
        uint64_t steps;
        uint32_t flags;
        if (n != 12) return alearn__lost(run, "the reader sent an acknowledgement of a wrong length");
        memcpy(&steps, head, 8);
        memcpy(&flags, head + 8, 4);
        if (steps > run->acknowledged) run->acknowledged = steps;
        alearn__forget(run, run->acknowledged);
        run->progress = run->heard;
        run->stop |= (int)(flags & 1);
        run->ended |= (int)(flags >> 1 & 1);
        if (kind == ALEARN__WELCOME) run->welcomed = 1, run->lost_since = -1;
    } else if (kind == ALEARN__STOP) {
        run->stop = 1;
    } else if (kind == ALEARN__STEER) {
        return alearn__wish(run, (const char *)head, n);
    } else if (kind == ALEARN__FAULT) {
        return alearn__refused(run, (const char *)head);
    }
    return ALEARN__FINE;
}

/* Take one frame out of what has come: its kind, its head (with a 0 behind it). 0: none is whole. */
static inline int alearn__take(alearn_run *run, int *kind, int *flags, unsigned char *head, size_t *n) {
    uint32_t length, crc;
    uint64_t body;
    size_t whole;
    unsigned char seal[ALEARN__SEAL];
    if (run->in_length < ALEARN__HEADER) return 0;
    memcpy(&length, run->in + 8, 4);
    memcpy(&body, run->in + 12, 8);
    memcpy(&crc, run->in + 20, 4);
    if (memcmp(run->in, "ALRN", 4) || length > ALEARN__HEAD_LIMIT || body)
        return alearn__lost(run, "what the reader sent is not a frame of this protocol");
    whole = ALEARN__HEADER + length;
    if (run->in_length < whole + (run->sealed ? ALEARN__SEAL : 0)) return 0;
    if (crc != alearn__crc(alearn__crc(0, run->in, 20), run->in + ALEARN__HEADER, length))
        return alearn__lost(run, "a frame from the reader was damaged on its way");
    if (run->sealed) {
        alearn__seal(seal, run->seal_in, run->sealed_in++, run->in, whole, NULL, 0);
        if (alearn__differ(seal, run->in + whole, ALEARN__SEAL))
            return alearn__lost(run, "a frame from the reader was changed on its way, or was not from it (its seal does not match)");
    }
    *kind = run->in[4];
    *flags = run->in[5];
    *n = length;
    memcpy(head, run->in + ALEARN__HEADER, length);
    head[length] = 0;
    whole += run->sealed ? ALEARN__SEAL : 0;
    run->in_length -= whole;
    memmove(run->in, run->in + whole, run->in_length);
    return 1;
}

/* Read what has come. 1: something, or nothing yet; otherwise the connection is lost. */
static inline int alearn__receive(alearn_run *run) {
    ssize_t got;
    if (run->in_length == ALEARN__IN) return 1;
#ifdef ALEARN_TLS
    if (run->tls) {
        int error;
        ERR_clear_error();
        got = SSL_read(run->tls, run->in + run->in_length, (int)(ALEARN__IN - run->in_length));
        if (got > 0) run->in_length += (size_t)got;
        error = got > 0 ? SSL_ERROR_NONE : SSL_get_error(run->tls, (int)got);
        return error == SSL_ERROR_NONE || error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
    }
#endif
    do got = recv(run->fd, run->in + run->in_length, ALEARN__IN - run->in_length, 0);
    while (got < 0 && errno == EINTR);
    if (got > 0) run->in_length += (size_t)got;
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

/* Read and act on what has come. */
static inline int alearn__listen(alearn_run *run) {
    unsigned char head[ALEARN__HEAD_LIMIT + 1];
    size_t n;
    size_t before;
    int kind, flags, took, open, result;
    do {
        before = run->in_length;
        open = alearn__receive(run);
        before = run->in_length - before;
        while ((took = alearn__take(run, &kind, &flags, head, &n)) > 0)
            if ((result = alearn__handle(run, kind, head, n))) return result;
        if (took < 0) return ALEARN__LOST;
    } while (open && before);
    return open ? ALEARN__FINE : alearn__lost(run, "the reader closed the connection");
}

/* Wait for the one frame that is due during the authentication. */
static inline int alearn__expect(alearn_run *run, int due, int *flags, unsigned char *head, size_t *n, double until) {
    int kind, took, open = 1;
    while (open && alearn__now() < until) {
        int sent = alearn__send(run);
        alearn__poll(run, 0.2);
        open = alearn__receive(run) && sent == ALEARN__FINE;
        took = alearn__take(run, &kind, flags, head, n);
        if (took < 0) return ALEARN__LOST;
        if (took && kind == ALEARN__FAULT) return alearn__refused(run, (const char *)head);
        if (took) return kind == due ? ALEARN__FINE : alearn__lost(run, "the reader sent another frame than was due");
    }
    return alearn__lost(run, open ? "the reader did not answer the authentication" : "the reader closed the connection");
}

/* Both sides prove that they hold the study's key; the reader before it learns anything of this member. */
static inline int alearn__authenticate(alearn_run *run) {
    unsigned char theirs[ALEARN__HEAD_LIMIT + 1], answer[ALEARN__HEAD_LIMIT + 1], ours[64], proof[32];
    const char *label;
    double until = alearn__now() + 10;
    size_t n;
    int flags, result, source;
    if ((result = alearn__expect(run, ALEARN__CHALLENGE, &flags, theirs, &n, until))) return result;
    if (n != 32) return alearn__lost(run, "the reader's challenge has a wrong length");
    if (!alearn__secret(run) && !(flags & 1)) {
        alearn__drop(run);
        alearn__fail(run, "The reader at %s offers a connection without seals; update it.", run->address);
        return ALEARN__REFUSED;
    }
    source = open("/dev/urandom", O_RDONLY);
    n = source < 0 || read(source, ours, 32) != 32 ? 0 : 1;
    if (source >= 0) close(source);
    if (!n) return alearn__lost(run, "/dev/urandom gave no random bytes");
    label = alearn__secret(run) ? "alearn 1 tls " : "alearn 1 sealed ";
    alearn__hmac(ours + 32, run, label, "writer", theirs, ours);
    if (alearn__queue(run, ALEARN__PROOF, ours, 64)) return ALEARN__REFUSED;
    if ((result = alearn__expect(run, ALEARN__PROOF, &flags, answer, &n, until))) return result;
    alearn__hmac(proof, run, label, "reader", theirs, ours);
    if (n != 32 || alearn__differ(answer, proof, 32)) {
        alearn__drop(run);
        alearn__fail(run, "Whoever listens at %s does not hold this study's key.", run->address);
        return ALEARN__REFUSED;
    }
    if (alearn__secret(run)) return ALEARN__FINE;
    alearn__hmac(run->seal_out, run, "alearn 1 seal ", "writer", theirs, ours);
    alearn__hmac(run->seal_in, run, "alearn 1 seal ", "reader", theirs, ours);
    run->sealed = 1;
    return ALEARN__FINE;
}

static inline int alearn__dial_one(alearn_run *run, int family, const struct sockaddr *where, socklen_t length, double wait_s) {
    int error = 0, yes = 1, room = 400 << 10; /* more would leave the processor's cache before it is read */
    socklen_t size = sizeof error;
    struct pollfd p;
    run->fd = socket(family, SOCK_STREAM, 0);
    if (run->fd < 0) return alearn__lost(run, strerror(errno));
    fcntl(run->fd, F_SETFD, FD_CLOEXEC);
    fcntl(run->fd, F_SETFL, fcntl(run->fd, F_GETFL) | O_NONBLOCK);
    if (family == AF_UNIX) {
        setsockopt(run->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    } else {
        setsockopt(run->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(run->fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    }
    if (connect(run->fd, where, length) == 0) return ALEARN__FINE;
    if (errno != EINPROGRESS && errno != EINTR) return alearn__lost(run, strerror(errno));
    p.fd = run->fd;
    p.events = POLLOUT;
    if (poll(&p, 1, (int)ceil(wait_s * 1000)) <= 0) return alearn__lost(run, "no answer to the attempt to connect");
    if (getsockopt(run->fd, SOL_SOCKET, SO_ERROR, &error, &size) || error) return alearn__lost(run, strerror(error));
    return ALEARN__FINE;
}

static inline int alearn__dial(alearn_run *run, double wait_s) {
    char host[512];
    char *port;
    struct addrinfo hints, *found, *a;
    int result = ALEARN__LOST;
    if (!strncmp(run->address, "unix:", 5)) {
        struct sockaddr_un where;
        memset(&where, 0, sizeof where);
        where.sun_family = AF_UNIX;
        if (strlen(run->address + 5) >= sizeof where.sun_path) return alearn__lost(run, "the socket's path is too long");
        strcpy(where.sun_path, run->address + 5);
        return alearn__dial_one(run, AF_UNIX, (struct sockaddr *)&where, sizeof where, wait_s);
    }
    snprintf(host, sizeof host, "%s", run->address + 4 + (run->address[4] == '['));
    port = strrchr(host, ':');
    *port++ = 0;
    if (host[0] && host[strlen(host) - 1] == ']') host[strlen(host) - 1] = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    result = getaddrinfo(host, port, &hints, &found);
    if (result) return alearn__lost(run, gai_strerror(result));
    for (result = ALEARN__LOST, a = found; a && result; a = a->ai_next)
        result = alearn__dial_one(run, a->ai_family, a->ai_addr, a->ai_addrlen, wait_s);
    freeaddrinfo(found);
    return result;
}

#ifdef ALEARN_TLS
/* OpenSSL's own way to a socket would raise SIGPIPE. */
static inline int alearn__bio_write(BIO *bio, const char *data, int n) {
    ssize_t took = send(*(int *)BIO_get_data(bio), data, (size_t)n, MSG_NOSIGNAL);
    BIO_clear_retry_flags(bio);
    if (took < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_write(bio);
    return (int)took;
}

static inline int alearn__bio_read(BIO *bio, char *data, int n) {
    ssize_t got = recv(*(int *)BIO_get_data(bio), data, (size_t)n, 0);
    BIO_clear_retry_flags(bio);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(bio);
    return (int)got;
}

static inline long alearn__bio_control(BIO *bio, int command, long number, void *data) {
    (void)bio, (void)number, (void)data;
    return command == BIO_CTRL_FLUSH;
}

/* TLS 1.3 on the connected socket. Whose certificate it is, the proofs inside will tell. */
static inline int alearn__encrypt(alearn_run *run) {
    double until = alearn__now() + 10;
    BIO *bio = NULL;
    X509 *shown;
    int result, error;
    if (!run->context) {
        run->context = SSL_CTX_new(TLS_client_method());
        run->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "alearn");
        if (run->method) {
            BIO_meth_set_write(run->method, alearn__bio_write);
            BIO_meth_set_read(run->method, alearn__bio_read);
            BIO_meth_set_ctrl(run->method, alearn__bio_control);
        }
        if (run->context) {
            SSL_CTX_set_min_proto_version(run->context, TLS1_3_VERSION);
            SSL_CTX_set_mode(run->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
            SSL_CTX_set_verify(run->context, SSL_VERIFY_NONE, NULL);
        }
    }
    if (run->context) run->tls = SSL_new(run->context);
    if (run->tls && run->method) bio = BIO_new(run->method);
    if (!bio) return alearn__lost(run, "OpenSSL has no memory left");
    BIO_set_data(bio, &run->fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(run->tls, bio, bio);
    for (;;) {
        struct pollfd p;
        ERR_clear_error();
        result = SSL_connect(run->tls);
        if (result == 1) break;
        error = SSL_get_error(run->tls, result);
        if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return alearn__lost(run, "the TLS handshake failed");
        if (alearn__now() > until) return alearn__lost(run, "the reader did not answer the TLS handshake");
        p.fd = run->fd;
        p.events = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        poll(&p, 1, 200);
    }
    shown = SSL_get_peer_certificate(run->tls);
    result = shown && X509_digest(shown, EVP_sha256(), run->certificate, NULL);
    X509_free(shown);
    return result ? ALEARN__FINE : alearn__lost(run, "the reader showed no certificate");
}
#endif

static inline int alearn__hello(alearn_run *run) {
    char number[160], host[256] = "";
    char *text = NULL;
    size_t n = 0;
    int fine;
    gethostname(host, sizeof host - 1);
    fine = alearn__say(&text, &n, "{\"protocol\": 1, \"member\": ") && alearn__quote(&text, &n, run->member);
    snprintf(number, sizeof number, ", \"attempt\": %d, \"session\": \"%s\", \"steps_total\": %llu, \"schema\": [", run->attempt,
             run->session, (unsigned long long)run->steps_total);
    fine = fine && alearn__say(&text, &n, number) && alearn__say(&text, &n, run->schema ? run->schema : "");
    fine = fine && alearn__say(&text, &n, "], \"parameters\": ") && alearn__say(&text, &n, run->parameters);
    fine = fine && alearn__say(&text, &n, ", \"provenance\": {\"client\": \"c\", \"host\": ") && alearn__quote(&text, &n, host);
    snprintf(number, sizeof number, ", \"pid\": %ld}}", run->pid);
    fine = fine && alearn__say(&text, &n, number);
    fine = fine ? alearn__queue(run, ALEARN__HELLO, text, n) : alearn__fail(run, "There is no memory left for the hello.");
    free(text);
    return fine;
}

static inline void alearn__life(const alearn_run *run, char *out, size_t size) {
    if (run->heard < 0) snprintf(out, size, "the learner has given no sign of life");
    else snprintf(out, size, "the learner's last sign of life was %.1f s ago", alearn__now() - run->heard);
}

static inline int alearn__turn(alearn_run *run, double wait_s);

/* Connect and say hello, again and again until the reconnect deadline. */
static inline int alearn__open(alearn_run *run) {
    double until;
    if (run->lost_since < 0) run->lost_since = alearn__now(), run->tries = 0;
    until = run->lost_since + run->reconnect_s;
    while (run->fd < 0) {
        double now = alearn__now(), began, pause;
        int result;
        if (now > until && run->tries) {
            char life[100];
            alearn__life(run, life, sizeof life);
            return alearn__fail(run, "No reader has opened member %s's stream at %s in %.1f s (%s); %s. Is the learner still running?",
                                run->member, run->address, now - run->lost_since, run->why, life);
        }
        if (run->tries) {
            pause = 0.01 * (1 << (run->tries < 6 ? run->tries : 6));
            pause = pause > 0.5 ? 0.5 : pause;
            pause = pause > until - now ? until - now : pause;
            if (pause > 0) {
                struct timespec t;
                t.tv_sec = 0;
                t.tv_nsec = (long)(1e9 * pause);
                nanosleep(&t, NULL);
            }
        }
        run->tries++;
        pause = until - now;
        result = alearn__dial(run, pause < 0.1 ? 0.1 : pause > 10 ? 10 : pause);
#ifdef ALEARN_TLS
        if (!result && alearn__secret(run)) result = alearn__encrypt(run);
#endif
        if (!result && strncmp(run->address, "unix:", 5)) result = alearn__authenticate(run);
        if (result == ALEARN__REFUSED) return ALEARN_ERROR;
        if (result) continue;
        run->welcomed = 0;
        if (alearn__hello(run)) return ALEARN_ERROR;
        /* steps may follow the hello at once, except where the reader may have some of them already */
        for (began = alearn__now(); (run->opened || run->attempt > 1) && run->fd >= 0 && !run->welcomed;) {
            if (alearn__now() - began > run->deadline_s) {
                char life[100];
                alearn__life(run, life, sizeof life);
                return alearn__fail(run, "Member %s is connected to %s but was not welcomed in %g s; %s. Is the learner paused?",
                                    run->member, run->address, run->deadline_s, life);
            }
            if (alearn__turn(run, run->deadline_s < 1 ? run->deadline_s : 1)) return ALEARN_ERROR;
        }
        if (run->fd < 0) continue;
        run->opened = 1;
        run->sending = run->first;
        run->sent = 0;
        run->tell = run->taken > 0;
        if (run->ending) run->ending = 1; /* to be said again, behind the steps */
    }
    return ALEARN_OK;
}

/* One look at the connection: send, wait at most so long for something to come, act on it. */
static inline int alearn__turn(alearn_run *run, double wait_s) {
    int sent, heard;
    if (run->error) return ALEARN_ERROR;
    if (run->fd < 0) {
        if (alearn__open(run)) return ALEARN_ERROR;
        wait_s = 0;
    }
    if (run->tell && !alearn__unsent(run)) { /* never into the middle of a step */
        char said[80];
        int n = snprintf(said, sizeof said, "{\"number\": %llu, \"step\": %llu}", (unsigned long long)run->taken, (unsigned long long)run->taken_at);
        if (alearn__queue(run, ALEARN__STEERED, said, (size_t)n)) return ALEARN_ERROR;
        run->tell = 0;
    }
    sent = alearn__send(run);
    if (!sent && wait_s > 0) {
        alearn__poll(run, wait_s);
        sent = alearn__send(run);
    }
    heard = alearn__listen(run); /* even if sending failed: the reader's reason may lie in this direction */
    if (heard == ALEARN__FINE && sent != ALEARN__FINE) alearn__lost(run, "the connection broke");
    return run->error ? ALEARN_ERROR : ALEARN_OK;
}

/* Wait no longer than the deadline since the last acknowledgement. */
static inline int alearn__patience(alearn_run *run, double began, const char *missing) {
    double since = began > run->progress ? began : run->progress, left = since + run->deadline_s - alearn__now();
    if (left <= 0) {
        char life[100];
        alearn__life(run, life, sizeof life);
        return alearn__fail(run, "Member %s waited %g s for %s %llu to be acknowledged; %s. Is the learner paused or overloaded?", run->member,
                            run->deadline_s, missing, (unsigned long long)(run->first ? run->first->step : run->step), life);
    }
    return alearn__turn(run, left < 1 ? left : 1);
}

/* -- the calls -- */

static inline double alearn__number(alearn_run *run, const char *name, double otherwise) {
    const char *text = getenv(name);
    char *end;
    double value;
    if (!text || !*text) return otherwise;
    value = strtod(text, &end);
    if (*end || !(value >= 0)) alearn__fail(run, "%s is '%s'; a number >= 0 is needed.", name, text);
    return value;
}

/* A file's text, or NULL. */
static inline char *alearn__read(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    char chunk[4096];
    size_t n = 0, got;
    int fine = file != NULL;
    while (fine && (got = fread(chunk, 1, sizeof chunk, file)) > 0) fine = alearn__add(&text, &n, chunk, got);
    if (file) fclose(file);
    if (fine) return text ? text : (char *)calloc(1, 1);
    free(text);
    return NULL;
}

static inline void alearn__key(alearn_run *run) {
    const char *path = getenv("ALEARN_KEY_FILE"), *text = getenv("ALEARN_KEY"), *p;
    char *file = NULL;
    if (!text || !*text) {
        if (!path || !*path) {
            alearn__fail(run, "The stream %s needs the study's key; set ALEARN_KEY or ALEARN_KEY_FILE as the launcher does.", run->address);
            return;
        }
        text = file = alearn__read(path);
    }
    for (p = text; p && *p && !strchr(" \t\r\n", *p) && run->key_length < sizeof run->key; p += 2, run->key_length++) {
        char two[5] = "00";
        unsigned value;
        two[2] = p[0];
        two[3] = p[1];
        if (!alearn__hex4(two, &value)) break;
        run->key[run->key_length] = (unsigned char)value;
    }
    if (!p || (*p && !strchr(" \t\r\n", *p)) || run->key_length < 32)
        alearn__fail(run, "The study's key cannot be read from %s; 32 bytes or more are needed, in hexadecimal.", file || !text ? path : "ALEARN_KEY");
    free(file);
}

static inline alearn_run *alearn_connect(void) {
    alearn_run *run = (alearn_run *)calloc(1, sizeof *run);
    const char *address = getenv("ALEARN_STREAM"), *member = getenv("ALEARN_MEMBER"), *path = getenv("ALEARN_PARAMETERS_FILE"), *text, *end;
    unsigned char random[16];
    int source, i;
    if (!run) return NULL;
    run->fd = -1;
    run->lost_since = run->heard = -1;
    run->progress = alearn__now();
    run->pid = (long)getpid();
    alearn__because(run, "it was never reached");
    if (!address || !*address) {
        run->alone = 1;
        return run;
    }
    snprintf(run->address, sizeof run->address, "%s", address);
    if (!member || !*member) alearn__fail(run, "ALEARN_STREAM is set but ALEARN_MEMBER is not; both come from the launcher of a study.");
    else snprintf(run->member, sizeof run->member, "%s", member);
    text = strrchr(address, ':');
    if ((alearn__secret(run) || !strncmp(address, "tcp:", 4)) && text > address + 4 && text[1] && strspn(text + 1, "0123456789") == strlen(text + 1))
        alearn__key(run);
    else if (strncmp(address, "unix:", 5) || !address[5])
        alearn__fail(run, "ALEARN_STREAM is '%s'; unix:PATH, tls:HOST:PORT or tcp:HOST:PORT is needed.", address);
#ifndef ALEARN_TLS
    if (alearn__secret(run))
        alearn__fail(run, "The stream %s is encrypted and this program was built without TLS; build it with -DALEARN_TLS and "
                     "-lssl -lcrypto, or set transport.encrypt=false in the study.", address);
#endif
    run->attempt = (int)alearn__number(run, "ALEARN_ATTEMPT", 1);
    run->acknowledged = (uint64_t)alearn__number(run, "ALEARN_ACKNOWLEDGED", 0);
    run->window = (size_t)(alearn__number(run, "ALEARN_WINDOW_MB", 32) * (1 << 20));
    run->deadline_s = alearn__number(run, "ALEARN_DEADLINE_S", 600);
    run->reconnect_s = alearn__number(run, "ALEARN_RECONNECT_S", 60);
    text = path && *path ? NULL : getenv("ALEARN_PARAMETERS");
    if (path && *path) run->text = alearn__read(path);
    else if ((run->text = (char *)malloc(strlen(text && *text ? text : "{}") + 1))) strcpy(run->text, text && *text ? text : "{}");
    run->in = (unsigned char *)malloc(ALEARN__IN);
    if (!run->in) alearn__fail(run, "There is no memory left for the stream.");
    end = run->text && *alearn__blank(run->text) == '{' ? alearn__skip(run->text, 0) : NULL;
    if (end && !*alearn__blank(end)) run->parameters = run->text;
    else alearn__fail(run, "The parameters in %s cannot be read; one JSON object is needed.", path && *path ? path : "ALEARN_PARAMETERS");
    source = open("/dev/urandom", O_RDONLY);
    if (source < 0 || read(source, random, sizeof random) != (ssize_t)sizeof random) alearn__fail(run, "/dev/urandom gave no random bytes.");
    if (source >= 0) close(source);
    for (i = 0; i < 16 && !run->error; i++) snprintf(run->session + 2 * i, 3, "%02x", random[i]);
    return run;
}

static inline double alearn_parameter(alearn_run *run, const char *name, double otherwise) {
    char names[512], *end;
    const char *value;
    double number;
    if (!run || run->alone) return otherwise;
    if (!run->parameters) return NAN;
    value = alearn__find(run->parameters, name, names, sizeof names);
    if (!value) {
        alearn__fail(run, "There is no parameter '%s'; this member has: %s.", name, names);
        return NAN;
    }
    if (!strncmp(value, "true", 4)) return 1;
    if (!strncmp(value, "false", 5)) return 0;
    number = strtod(value, &end);
    if (end == value || !strchr(",]} \t\r\n", *end)) { /* under a locale with a decimal comma, too: better told than wrong */
        alearn__fail(run, "The parameter '%s' is no number: %.40s.", name, value);
        return NAN;
    }
    return number;
}

/* The fields as the wire's schema, and the bytes of a step. NULL: no memory, or what run->message says. */
static inline char *alearn__schema(alearn_run *run, const alearn_field *fields, int count, size_t *bytes) {
    char *schema = NULL;
    size_t n = 0;
    int i, d, fine = 1;
    for (*bytes = 0, i = 0; i < count && fine; i++) {
        const alearn_field *f = fields + i;
        size_t size = 1;
        char number[32];
        if (!f->name || !*f->name || f->ndim < 0 || f->ndim > ALEARN_MAX_DIMS || (int)f->dtype < 0 || f->dtype > ALEARN_BOOL) {
            alearn__fail(run, "Field %d of the step has no name, or %d dimensions, or the dtype %d.", i, f->ndim, (int)f->dtype);
            fine = 0;
            break;
        }
        fine = alearn__say(&schema, &n, i ? ", {\"name\": " : "{\"name\": ") && alearn__quote(&schema, &n, f->name);
        fine = fine && alearn__say(&schema, &n, ", \"dtype\": \"") && alearn__say(&schema, &n, alearn__dtypes[f->dtype].name);
        fine = fine && alearn__say(&schema, &n, "\", \"unit\": ") && alearn__quote(&schema, &n, f->unit ? f->unit : "");
        fine = fine && alearn__say(&schema, &n, ", \"shape\": [");
        for (d = 0; d < f->ndim && fine; d++) {
            if (f->shape[d] < 0 || (f->shape[d] && size > (SIZE_MAX >> 8) / (size_t)f->shape[d])) {
                alearn__fail(run, "The field '%s' has %lld as its size number %d.", f->name, (long long)f->shape[d], d);
                fine = 0;
                break;
            }
            size *= (size_t)f->shape[d];
            snprintf(number, sizeof number, "%s%lld", d ? ", " : "", (long long)f->shape[d]);
            fine = alearn__say(&schema, &n, number);
        }
        fine = fine && alearn__say(&schema, &n, "]}");
        *bytes += size * alearn__dtypes[f->dtype].bytes;
    }
    if (fine) return schema;
    alearn__fail(run, "There is no memory left for the step.");
    free(schema);
    return NULL;
}

/* Check a step against the first one; the first one is taken down. */
static inline int alearn__conform(alearn_run *run, const alearn_field *fields, int count) {
    char *schema;
    size_t bytes, names = 0;
    int i, d;
    if (count < 1) return alearn__fail(run, "The step carries no values; give at least one field.");
    for (i = 0; i < count && count == run->count; i++) {
        const alearn_field *f = fields + i, *g = run->fields + i;
        if (!f->name || f->dtype != g->dtype || f->ndim != g->ndim || strcmp(f->name, g->name)) break;
        for (d = 0; d < f->ndim && f->shape[d] == g->shape[d]; d++) {}
        if (d < f->ndim) break;
    }
    if (i == count) return ALEARN_OK;
    schema = alearn__schema(run, fields, count, &bytes);
    if (!schema) return ALEARN_ERROR;
    if (run->schema) {
        alearn__fail(run, "Step %llu carries [%.300s]; the first step announced [%.300s].", (unsigned long long)run->step, schema, run->schema);
        free(schema);
        return ALEARN_ERROR;
    }
    run->schema = schema;
    run->body_bytes = bytes;
    for (i = 0; i < count; i++) names += strlen(fields[i].name) + 1;
    run->fields = (alearn_field *)malloc((size_t)count * sizeof *fields + names);
    if (!run->fields) return alearn__fail(run, "There is no memory left for the step.");
    memcpy(run->fields, fields, (size_t)count * sizeof *fields);
    for (schema = (char *)(run->fields + count), i = 0; i < count; i++, schema += strlen(schema) + 1) {
        strcpy(schema, fields[i].name);
        run->fields[i].name = schema;
    }
    run->count = count;
    return ALEARN_OK;
}

static inline int alearn_put(alearn_run *run, double t, const alearn_field *fields, int count) {
    unsigned char head[16], *to;
    alearn_entry *e;
    double began;
    int i, d;
    if (!run || run->error) return ALEARN_ERROR;
    if (run->pid != (long)getpid()) return alearn__fail(run, "The run of member %s was opened by process %ld; a fork of it cannot put steps.", run->member, run->pid);
    if (alearn__conform(run, fields, count)) return ALEARN_ERROR;
    if (run->alone) {
        run->step++;
        return ALEARN_OK;
    }
    if (run->step > run->next && run->step > run->acknowledged)
        return alearn__fail(run, "Step %llu cannot be next: the learner has %llu steps of member %s.", (unsigned long long)run->step,
                            (unsigned long long)run->acknowledged, run->member);
    if (alearn__turn(run, 0)) return ALEARN_ERROR;
    for (began = alearn__now();; ) {
        if (run->stop) {
            run->told = 1;
            return ALEARN_STOPPED;
        }
        if (run->step < run->acknowledged) {
            run->next = ++run->step;
            return ALEARN_OK;
        }
        if (!run->first || run->window_bytes + run->body_bytes <= run->window) break;
        if (alearn__patience(run, began, "step")) return ALEARN_ERROR;
    }
    e = run->spare;
    if (e) run->spare = e->next;
    else e = (alearn_entry *)malloc(sizeof *e + run->body_bytes);
    if (!e) return alearn__fail(run, "There is no memory left for step %llu.", (unsigned long long)run->step);
    e->next = NULL;
    e->step = run->step;
    e->length = run->body_bytes;
    memcpy(head, &run->step, 8);
    memcpy(head + 8, &t, 8);
    alearn__frame(e->head, ALEARN__STEP, e->length, head, sizeof head);
    for (to = e->body, i = 0; i < count; i++) {
        size_t bytes = alearn__dtypes[fields[i].dtype].bytes;
        for (d = 0; d < fields[i].ndim; d++) bytes *= (size_t)fields[i].shape[d];
        if (bytes) memcpy(to, fields[i].data, bytes);
        to += bytes;
    }
    if (run->last) run->last->next = e;
    else run->first = e;
    run->last = e;
    run->window_bytes += e->length;
    run->next = ++run->step;
    if (run->fd >= 0 && !run->sending) run->sending = e, run->sent = 0;
    /* a slow reader may leave bytes here while the window has room: they follow with the next step */
    if (run->fd >= 0 && alearn__send(run) == ALEARN__FINE && !alearn__unsent(run)) return ALEARN_OK;
    for (began = alearn__now(); (run->fd < 0 || alearn__unsent(run)) && alearn__now() < began + 0.05;)
        if (alearn__turn(run, 0.05)) return ALEARN_ERROR;
    return ALEARN_OK;
}

static inline int alearn_stopped(alearn_run *run) {
    if (!run || run->error) return 0;
    if (!run->stop && run->opened) alearn__turn(run, 0);
    run->told |= run->stop;
    return run->stop;
}

static inline double alearn_steered(alearn_run *run, const char *name, double otherwise) {
    size_t i;
    if (!run || run->alone || run->error) return otherwise;
    if (run->opened && alearn__turn(run, 0)) return otherwise;
    if (run->wishes_taken < run->wishes_count) {
        run->wishes_taken = run->wishes_count;
        run->taken = run->wish;
        run->taken_at = run->step;
        run->tell = 1;
    }
    for (i = run->wishes_count; i--;) {
        const char *value = alearn__find(run->wishes[i], name, NULL, 0);
        char *end;
        double number;
        if (!value) continue;
        if (!strncmp(value, "true", 4)) return 1;
        if (!strncmp(value, "false", 5)) return 0;
        number = strtod(value, &end);
        if (end != value && strchr(",]} \t\r\n", *end)) return number;
        fprintf(stderr, "alearn: '%s' was steered to %.40s, which is no number; it stays %g.\n", name, value, otherwise);
        return otherwise;
    }
    return otherwise;
}

static inline int alearn_close(alearn_run *run, const char *failure) {
    char *text = NULL;
    char number[64];
    size_t n = 0;
    double began = alearn__now();
    int fine;
    if (!run) return ALEARN_ERROR;
    if (!run->alone && !run->error && run->pid == (long)getpid()) {
        if (failure) { /* nobody should wait long for a run that has failed */
            run->deadline_s = run->deadline_s > 10 ? 10 : run->deadline_s;
            run->reconnect_s = run->reconnect_s > 10 ? 10 : run->reconnect_s;
        }
        while ((run->first || run->tell) && !run->error) alearn__patience(run, began, "step");
        snprintf(number, sizeof number, "{\"steps\": %llu, \"status\": \"",
                 (unsigned long long)(run->step > run->acknowledged ? run->step : run->acknowledged));
        fine = alearn__say(&text, &n, number) && alearn__say(&text, &n, failure ? "failed" : run->told ? "stopped" : "done");
        fine = fine && alearn__say(&text, &n, "\", \"reason\": ") && alearn__quote(&text, &n, failure ? failure : "") && alearn__say(&text, &n, "}");
        if (!fine) alearn__fail(run, "There is no memory left for the end.");
        run->ending = 1;
        for (began = alearn__now(); !run->ended && !run->error;) {
            if (run->fd < 0 && alearn__open(run)) break;
            if (run->ending == 1) {
                if (alearn__queue(run, ALEARN__END, text, n)) break;
                run->ending = 2;
            }
            alearn__patience(run, began, "the end after step");
        }
        free(text);
    }
    fine = !run->error;
    alearn__drop(run);
    while (run->first || run->spare) {
        alearn_entry *e = run->first ? run->first : run->spare;
        if (run->first) run->first = e->next;
        else run->spare = e->next;
        free(e);
    }
    while (run->wishes_count) free(run->wishes[--run->wishes_count]);
    free(run->wishes);
#ifdef ALEARN_TLS
    SSL_CTX_free(run->context);
    BIO_meth_free(run->method);
#endif
    free(run->text);
    free(run->schema);
    free(run->fields);
    free(run->out);
    free(run->in);
    free(run);
    return fine ? ALEARN_OK : ALEARN_ERROR;
}

#endif
