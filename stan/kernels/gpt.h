/* The log likelihood of every stage and its gradient: a plain C interface, used by Stan programs
   and by Python. */

#ifndef GPTBAYES_GPT_H
#define GPTBAYES_GPT_H

#ifdef __cplusplus
extern "C" {
#endif

struct gptbayes_sizes {
  int stage;      /* 1 to 12 */
  int V;          /* number of characters */
  int block_size; /* positions that have an embedding, at least T */
  int C;          /* dimension of the residual stream */
  int H;          /* number of heads, of dimension C / H */
  int L;          /* number of blocks */
  int B;          /* sequences */
  int T;          /* length of each */
  int by_rows;    /* 1 if matrices are stored row by row, as in numpy; 0 by columns, as in Stan */
};

/**
 * Log probability of every next token, and the gradient of their weighted sum.
 *
 * Sizes are not checked here. Several threads may call the function at the
 * same time.
 *
 * @param x, y tokens and next tokens, 0 to V - 1: sequence 1 first, then sequence 2
 * @param arguments one pointer per argument of the stage's gpt_logits after x, in the order of
 *   `arguments.inc`; arrays item by item, matrices by rows or by columns
 * @param weights of the tokens, in the order of x
 * @param log_lik B T numbers in nats, in the order of x
 * @param gradients one pointer per argument, null for masks; the gradient is *added* to what is
 *   there. Or null, to compute values only.
 * @return 0, or 1 if memory cannot be allocated
 */
int gptbayes_log_likelihood(const struct gptbayes_sizes* sizes, const int* x, const int* y,
                            const double* const* arguments, const double* weights,
                            double* log_lik, double* const* gradients);

#ifdef __cplusplus
}
#endif

#endif
