// Components of the model, in the order of the forward pass:
// - embedding of each token
// - embedding of each position
// - blocks of attention and feed-forward, repeated n_layer times
// - layer norm before attention and before feed-forward
// - causal self-attention, several heads
// - linear projection of the concatenated heads
// - feed-forward layer, 4 n_embed hidden units and a linear projection
// - dropout, with masks that are fixed data
// - residual connections around attention and feed-forward
// - final layer norm
// - linear head: the logits of the next token

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
   * The forward pass.
   *
   * @param x tokens, B sequences of length T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x,
                    data array[,] matrix attention_mask,
                    data array[] vector attention_output_mask,
                    data array[] vector feed_forward_mask,
                    array[] vector token_embedding,
                    array[] vector position_embedding,
                    array[,] matrix key,
                    array[,] matrix query,
                    array[,] matrix value,
                    array[] matrix sa_proj_multiplier,
                    array[] vector sa_proj_offset,
                    array[] matrix feed_forward_multiplier,
                    array[] vector feed_forward_offset,
                    array[] matrix feed_forward_proj_multiplier,
                    array[] vector feed_forward_proj_offset,
                    array[] vector ln1_weight,
                    array[] vector ln1_bias,
                    array[] vector ln2_weight,
                    array[] vector ln2_bias,
                    vector ln_f_weight,
                    vector ln_f_bias,
                    matrix lm_head_multiplier,
                    vector lm_head_offset) {
    int T = size(x[1]);
    int C = size(token_embedding[1]);
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    stream += embed_positions(x, position_embedding);  // (B T, C)
    for (l in 1:size(key)) {
      stream += drop(linear(masked_multi_head_attention(
        layer_norm(stream, ln1_weight[l], ln1_bias[l]),
        T, key[l], query[l], value[l],
        attention_mask[l]), sa_proj_multiplier[l], sa_proj_offset[l]),
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
}
data {
  int<lower=1> vocab_size;  // V, number of distinct characters
  int<lower=1> block_size;  // T, length of a sequence
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // C, dimension of the embeddings
  int<lower=1> n_head;  // H, number of attention heads
  int<lower=1> n_layer;  // L, number of blocks
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // targets

  // dropout masks: 0, or 1 / (1 - dropout); the same for all sequences
  array[n_layer, n_head] matrix<lower=0>[block_size, block_size]
    attention_mask;  // of the attention weights
  array[n_layer] vector<lower=0>[n_embed]
    attention_output_mask;  // of what attention adds to the residual stream
  array[n_layer] vector<lower=0>[n_embed]
    feed_forward_mask;  // of what feed-forward adds to the residual stream

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> position_embedding_scale;  // prior sd
  real<lower=0> attention_scale;  // prior sd of key, query and value
  real<lower=0> attention_proj_scale;  // prior sd
  real<lower=0> feed_forward_scale;  // prior sd
  real<lower=0> layer_norm_scale;  // prior sd
  real<lower=0> lm_head_scale;  // prior sd
  real<lower=0> offset_scale;  // prior sd of all offsets
  real<lower=0> likelihood_weight;  // 1 for the posterior, 0 for the prior

  int<lower=1> prompt_size;  // length of the prompt
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;  // tokens
  int<lower=0> n_new_tokens;  // number of tokens to generate
}
transformed data {
  int head_size = n_embed %/% n_head;  // h, dimension of a head
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // one per character
  array[block_size] vector[n_embed] position_embedding;  // one per position
  array[n_layer, n_head] matrix[n_embed, head_size] key;  // attention keys
  array[n_layer, n_head] matrix[n_embed, head_size] query;  // attention queries
  array[n_layer, n_head] matrix[n_embed, head_size] value;  // attention values
  array[n_layer] matrix[n_embed, n_embed] sa_proj_multiplier;  // projection
  array[n_layer] vector[n_embed] sa_proj_offset;  // projection
  array[n_layer] matrix[4 * n_embed, n_embed]
    feed_forward_multiplier;  // hidden units
  array[n_layer] vector[4 * n_embed] feed_forward_offset;  // hidden units
  array[n_layer] matrix[n_embed, 4 * n_embed]
    feed_forward_proj_multiplier;  // projection
  array[n_layer] vector[n_embed] feed_forward_proj_offset;  // projection
  array[n_layer] vector[n_embed] ln1_weight;  // before attention
  array[n_layer] vector[n_embed] ln1_bias;  // before attention
  array[n_layer] vector[n_embed] ln2_weight;  // before feed-forward
  array[n_layer] vector[n_embed] ln2_bias;  // before feed-forward
  vector[n_embed] ln_f_weight;  // final layer norm
  vector[n_embed] ln_f_bias;  // final layer norm
  matrix[vocab_size, n_embed] lm_head_multiplier;  // linear head
  vector[vocab_size] lm_head_offset;  // linear head
}
transformed parameters {
  matrix[batch_size, block_size] log_lik;  // nats, one per target
  profile("likelihood") {
    log_lik = token_log_likelihood(y, gpt_logits(
      x,
      attention_mask, attention_output_mask, feed_forward_mask,
      token_embedding,
      position_embedding,
      key, query, value,
      sa_proj_multiplier, sa_proj_offset,
      feed_forward_multiplier, feed_forward_offset,
      feed_forward_proj_multiplier, feed_forward_proj_offset,
      ln1_weight, ln1_bias, ln2_weight, ln2_bias,
      ln_f_weight, ln_f_bias,
      lm_head_multiplier, lm_head_offset));
  }
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
    to_vector(sa_proj_multiplier[l]) ~ normal(0, attention_proj_scale);
    sa_proj_offset[l] ~ normal(0, offset_scale);
    to_vector(feed_forward_multiplier[l]) ~ normal(0, feed_forward_scale);
    feed_forward_offset[l] ~ normal(0, offset_scale);
    to_vector(feed_forward_proj_multiplier[l]) ~ normal(0, feed_forward_scale);
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

  target += likelihood_weight * sum(to_vector(log_lik'));
}
generated quantities {
  array[n_new_tokens] int new_tokens;  // the prompt's continuation
  {
    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size),
        attention_mask, attention_output_mask, feed_forward_mask,
        token_embedding,
        position_embedding,
        key, query, value,
        sa_proj_multiplier, sa_proj_offset,
        feed_forward_multiplier, feed_forward_offset,
        feed_forward_proj_multiplier, feed_forward_proj_offset,
        ln1_weight, ln1_bias, ln2_weight, ln2_bias,
        ln_f_weight, ln_f_bias,
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
