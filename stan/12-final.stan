// 12: final. The concatenated heads are projected before they are added to
// the stream.

functions {
  #include embedding.stanfunctions
  #include position.stanfunctions
  #include attention.stanfunctions
  #include dropout.stanfunctions
  #include linear.stanfunctions
  #include feed_forward.stanfunctions
  #include layer_norm.stanfunctions
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * @param x tokens, B sequences of T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x, array[] vector token_embedding,
                    array[] vector position_embedding,
                    array[,] matrix key, array[,] matrix query,
                    array[,] matrix value,
                    data array[,] matrix attention_mask,
                    array[] matrix sa_proj_multiplier,  // 12
                    array[] vector sa_proj_offset,  // 12
                    data array[] vector attention_output_mask,
                    array[] matrix feed_forward_multiplier,
                    array[] vector feed_forward_offset,
                    array[] matrix feed_forward_proj_multiplier,
                    array[] vector feed_forward_proj_offset,
                    data array[] vector feed_forward_mask,
                    array[] vector ln1_weight, array[] vector ln1_bias,
                    array[] vector ln2_weight, array[] vector ln2_bias,
                    vector ln_f_weight, vector ln_f_bias,
                    matrix lm_head_multiplier, vector lm_head_offset) {
    int T = size(x[1]);
    int C = size(token_embedding[1]);
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    stream += embed_positions(x, position_embedding);  // (B T, C)
    for (l in 1:size(key)) {
      stream += drop(linear(masked_multi_head_attention(  // 12
        layer_norm(stream, ln1_weight[l], ln1_bias[l]),
        T, key[l], query[l], value[l],
        attention_mask[l]), sa_proj_multiplier[l], sa_proj_offset[l]),  // 12
        attention_output_mask[l]);
      stream += drop(linear(
        feed_forward(layer_norm(stream, ln2_weight[l], ln2_bias[l]),
                     feed_forward_multiplier[l], feed_forward_offset[l]),
        feed_forward_proj_multiplier[l], feed_forward_proj_offset[l]),
        feed_forward_mask[l]);
    }
    stream = layer_norm(stream, ln_f_weight, ln_f_bias);
    return linear(stream, lm_head_multiplier, lm_head_offset);  // (B T, V)
  }

  #include log_likelihood/12.stanfunctions
}
data {
  int<lower=1> vocab_size;  // V, number of characters
  int<lower=1> block_size;  // T, length of the context
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // C, width of the model
  int<lower=1> n_head;  // H, number of heads
  int<lower=1> n_layer;  // L, number of blocks
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // next ones

  // fixed masks, 0 or 1 / (1 - dropout), the same for all sequences
  array[n_layer, n_head] matrix<lower=0>[block_size, block_size]
    attention_mask;
  array[n_layer] vector<lower=0>[n_embed] attention_output_mask;
  array[n_layer] vector<lower=0>[n_embed] feed_forward_mask;

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> position_embedding_scale;  // prior sd
  real<lower=0> attention_scale;  // prior sd
  real<lower=0> attention_proj_scale;  // 12: prior sd
  real<lower=0> feed_forward_scale;  // prior sd
  real<lower=0> layer_norm_scale;  // prior sd
  real<lower=0> lm_head_scale;  // prior sd
  real<lower=0> offset_scale;  // prior sd
  real<lower=0> likelihood_weight;  // 1: posterior, 0: prior

  int<lower=1> prompt_size;
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;
  int<lower=0> n_new_tokens;  // how far to go on from the prompt
}
transformed data {
  int head_size = n_embed %/% n_head;  // h
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // of each character
  array[block_size] vector[n_embed] position_embedding;
  array[n_layer, n_head] matrix[n_embed, head_size] key;
  array[n_layer, n_head] matrix[n_embed, head_size] query;
  array[n_layer, n_head] matrix[n_embed, head_size] value;
  array[n_layer] matrix[n_embed, n_embed] sa_proj_multiplier;  // 12
  array[n_layer] vector[n_embed] sa_proj_offset;  // 12
  array[n_layer] matrix[4 * n_embed, n_embed] feed_forward_multiplier;
  array[n_layer] vector[4 * n_embed] feed_forward_offset;
  array[n_layer] matrix[n_embed, 4 * n_embed]
    feed_forward_proj_multiplier;
  array[n_layer] vector[n_embed] feed_forward_proj_offset;
  array[n_layer] vector[n_embed] ln1_weight;  // before attention
  array[n_layer] vector[n_embed] ln1_bias;
  array[n_layer] vector[n_embed] ln2_weight;  // before feed-forward
  array[n_layer] vector[n_embed] ln2_bias;
  vector[n_embed] ln_f_weight;  // before the head
  vector[n_embed] ln_f_bias;
  matrix[vocab_size, n_embed] lm_head_multiplier;
  vector[vocab_size] lm_head_offset;
}
model {
  for (v in 1:vocab_size) {
    token_embedding[v] ~ normal(0, token_embedding_scale);
  }
  for (t in 1:block_size) {
    position_embedding[t] ~ normal(0, position_embedding_scale);
  }
  for (l in 1:n_layer) {
    for (head in 1:n_head) {
      to_vector(key[l, head]) ~ normal(0, attention_scale);
      to_vector(query[l, head]) ~ normal(0, attention_scale);
      to_vector(value[l, head]) ~ normal(0, attention_scale);
    }
    to_vector(sa_proj_multiplier[l]) ~ normal(0, attention_proj_scale);  // 12
    sa_proj_offset[l] ~ normal(0, offset_scale);  // 12
    to_vector(feed_forward_multiplier[l])
      ~ normal(0, feed_forward_scale);
    feed_forward_offset[l] ~ normal(0, offset_scale);
    to_vector(feed_forward_proj_multiplier[l])
      ~ normal(0, feed_forward_scale);
    feed_forward_proj_offset[l] ~ normal(0, offset_scale);
    ln1_weight[l] ~ normal(1, layer_norm_scale);
    ln1_bias[l] ~ normal(0, layer_norm_scale);
    ln2_weight[l] ~ normal(1, layer_norm_scale);
    ln2_bias[l] ~ normal(0, layer_norm_scale);
  }
  ln_f_weight ~ normal(1, layer_norm_scale);
  ln_f_bias ~ normal(0, layer_norm_scale);
  to_vector(lm_head_multiplier) ~ normal(0, lm_head_scale);
  lm_head_offset ~ normal(0, offset_scale);

  profile("likelihood") {
    target += likelihood_weight * sum(
      gpt_log_likelihood(y, x, token_embedding, position_embedding,
                         key, query, value,
                         attention_mask,
                         sa_proj_multiplier, sa_proj_offset,  // 12
                         attention_output_mask,
                         feed_forward_multiplier, feed_forward_offset,
                         feed_forward_proj_multiplier,
                         feed_forward_proj_offset, feed_forward_mask,
                         ln1_weight, ln1_bias, ln2_weight, ln2_bias,
                         ln_f_weight, ln_f_bias,
                         lm_head_multiplier, lm_head_offset));
  }
}
generated quantities {
  matrix[batch_size, block_size] log_lik;  // nats
  array[n_new_tokens] int new_tokens;
  {
    log_lik = to_matrix(
      gpt_log_likelihood(y, x, token_embedding, position_embedding,
                         key, query, value,
                         attention_mask,
                         sa_proj_multiplier, sa_proj_offset,  // 12
                         attention_output_mask,
                         feed_forward_multiplier, feed_forward_offset,
                         feed_forward_proj_multiplier,
                         feed_forward_proj_offset, feed_forward_mask,
                         ln1_weight, ln1_bias, ln2_weight, ln2_bias,
                         ln_f_weight, ln_f_bias,
                         lm_head_multiplier, lm_head_offset),
      batch_size, block_size, 0);

    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size), token_embedding, position_embedding,
        key, query, value, attention_mask,
        sa_proj_multiplier, sa_proj_offset, attention_output_mask,  // 12
        feed_forward_multiplier, feed_forward_offset,
        feed_forward_proj_multiplier, feed_forward_proj_offset,
        feed_forward_mask,
        ln1_weight, ln1_bias, ln2_weight, ln2_bias,
        ln_f_weight, ln_f_bias,
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
