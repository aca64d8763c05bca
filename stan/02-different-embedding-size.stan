// 02: different embedding size. Characters become vectors of any length C,
// and a linear head turns a vector into logits.

functions {
  #include embedding.stanfunctions
  #include linear.stanfunctions  // 02
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * @param x tokens, B sequences of T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x, array[] vector token_embedding,
                    matrix lm_head_multiplier, vector lm_head_offset) {
    int C = size(token_embedding[1]);  // 02
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    return linear(stream, lm_head_multiplier, lm_head_offset);  // 02: (B T, V)
  }

  #include log_likelihood/02.stanfunctions
}
data {
  int<lower=1> vocab_size;  // V, number of characters
  int<lower=1> block_size;  // T, length of the context
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // 02: C, width of the model
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // next ones

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> lm_head_scale;  // 02: prior sd
  real<lower=0> offset_scale;  // 02: prior sd
  real<lower=0> likelihood_weight;  // 1: posterior, 0: prior

  int<lower=1> prompt_size;
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;
  int<lower=0> n_new_tokens;  // how far to go on from the prompt
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // of each character
  matrix[vocab_size, n_embed] lm_head_multiplier;  // 02
  vector[vocab_size] lm_head_offset;  // 02
}
model {
  for (v in 1:vocab_size) {
    token_embedding[v] ~ normal(0, token_embedding_scale);
  }
  to_vector(lm_head_multiplier) ~ normal(0, lm_head_scale);  // 02
  lm_head_offset ~ normal(0, offset_scale);  // 02

  profile("likelihood") {
    target += likelihood_weight * sum(
      gpt_log_likelihood(y, x, token_embedding,
                         lm_head_multiplier, lm_head_offset));
  }
}
generated quantities {
  matrix[batch_size, block_size] log_lik;  // nats
  array[n_new_tokens] int new_tokens;
  {
    log_lik = to_matrix(
      gpt_log_likelihood(y, x, token_embedding,
                         lm_head_multiplier, lm_head_offset),
      batch_size, block_size, 0);

    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size), token_embedding,
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
