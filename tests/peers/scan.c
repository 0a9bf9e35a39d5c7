// SPDX-License-Identifier: Apache-2.0
// The linear scan as a loop over tokens, TILE channels of a row at a time: what memory allows.
// x, a, h: [B, T, E] float32. scan.py compiles and calls it.
#define TILE 256

static long least(long p, long q) { return p < q ? p : q; }

void scan_forward(const float *x, const float *a, float *h, long B, long T, long E, int threads) {
  long tiles = (E + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads)
  for (long part = 0; part < B * tiles; part++) {
    long start = (part / tiles) * T * E + (part % tiles) * TILE;
    long width = least(TILE, E - (part % tiles) * TILE);
    float carry[TILE] = {0};
    for (long t = 0; t < T; t++)
      for (long e = 0; e < width; e++) {
        long i = start + t * E + e;
        h[i] = carry[e] = a[i] * carry[e] + x[i];
      }
  }
}

// dx_t = dh_t + a_{t+1} dx_{t+1} and da_t = dx_t h_{t-1}
void scan_backward(const float *dh, const float *a, const float *h, float *dx, float *da, long B,
                   long T, long E, int threads) {
  long tiles = (E + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads)
  for (long part = 0; part < B * tiles; part++) {
    long start = (part / tiles) * T * E + (part % tiles) * TILE;
    long width = least(TILE, E - (part % tiles) * TILE);
    float carry[TILE] = {0};
    for (long t = T - 1; t >= 0; t--)
      for (long e = 0; e < width; e++) {
        long i = start + t * E + e;
        dx[i] = dh[i] + carry[e];
        da[i] = t > 0 ? dx[i] * h[i - E] : 0.0f;
        carry[e] = a[i] * dx[i];
      }
  }
}
