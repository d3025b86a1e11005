defmodule PartitionedBuffer.MapModel do
  @moduledoc false
  # What a map has to do, in plain Elixir, one key at a time.
  #
  # `apply_to/2` runs an operation on a buffer and answers what it did to each key: `{key, step, answer}`.
  # `explained?/3` tells whether such a history of a key and what the processor got of it are possible:
  # as if each cycle began at some moment between two steps.

  alias PartitionedBuffer.Map, as: Buffer

  @type live :: nil | {value :: term(), version :: integer(), updates :: non_neg_integer()}

  @doc "Runs an operation: the steps that it takes, with their answers."
  def apply_to(buffer, operation)

  def apply_to(buffer, {:put_all, pairs, opts}) do
    :ok = Buffer.put_all(buffer, pairs, opts)
    for {key, value} <- pairs, do: {key, {:put, value}, :ok}
  end

  def apply_to(buffer, {:put_all_newer, entries, opts}) do
    :ok = Buffer.put_all_newer(buffer, entries, opts)
    for {key, value, version} <- entries, do: {key, {:put_newer, value, version}, :ok}
  end

  def apply_to(buffer, {step, key, opts}), do: [{key, step, answer(buffer, key, step, opts)}]

  defp answer(buffer, key, {:put, value}, opts), do: Buffer.put(buffer, key, value, opts)
  defp answer(buffer, key, :delete, opts), do: Buffer.delete(buffer, key, opts)
  defp answer(buffer, key, :take, opts), do: Buffer.take(buffer, key, opts)
  defp answer(buffer, key, :fetch, opts), do: Buffer.fetch(buffer, key, opts)
  defp answer(buffer, key, :has_key?, opts), do: Buffer.has_key?(buffer, key, opts)
  defp answer(buffer, key, {:get, default}, opts), do: Buffer.get(buffer, key, default, opts)

  defp answer(buffer, key, {:put_newer, value, version}, opts) do
    Buffer.put_newer(buffer, key, value, version, opts)
  end

  defp answer(buffer, key, {:update, default, operation}, opts) do
    Buffer.update(buffer, key, default, operation, opts)
  rescue
    error in [ArithmeticError, ArgumentError] -> error.__struct__
  end

  @doc "What a step answers, and what there is of the key then."
  def step(live, step)

  def step(_live, {:put, value}), do: {:ok, {value, 0, 0}}
  def step(nil, {:put_newer, value, version}), do: {:ok, {value, version, 0}}

  def step({_value, there, updates}, {:put_newer, value, version}) when version > there do
    {:ok, {value, version, updates + 1}}
  end

  def step(live, {:put_newer, _value, _version}), do: {:ok, live}
  def step(_live, :delete), do: {:ok, nil}
  def step(nil, reading) when reading in [:take, :fetch], do: {:error, nil}
  def step({value, _version, _updates}, :take), do: {{:ok, value}, nil}
  def step({value, _version, _updates} = live, :fetch), do: {{:ok, value}, live}
  def step(live, :has_key?), do: {live != nil, live}
  def step(nil, {:get, default}), do: {default, nil}
  def step({value, _version, _updates} = live, {:get, _default}), do: {value, live}
  def step(nil, {:update, _default, {:put_new, value}}), do: {:ok, {value, 0, 0}}
  def step(live, {:update, _default, {:put_new, _value}}), do: {:ok, live}
  def step(nil, {:update, default, _operation}), do: {:ok, {default, 0, 0}}

  def step({value, version, updates} = live, {:update, _default, operation}) do
    {:ok, {changed(value, operation), version, updates + 1}}
  rescue
    error in [ArithmeticError, ArgumentError] -> {error.__struct__, live}
  end

  defp changed(value, {:add, number}), do: value + number
  defp changed(value, {:max, term}), do: max(value, term)
  defp changed(value, {:min, term}), do: min(value, term)
  defp changed(value, {:append, term}) when is_list(value), do: value ++ [term]
  defp changed(_value, {:append, _term}), do: raise(ArgumentError)
  defp changed(value, fun), do: fun.(value)

  @doc """
  Whether the history of a key explains what was processed of it, `[live]` in order.

  A step `:cycle` is a moment at which everything was processed. `cycles` tells whether there may have
  been others: `:any`, or `:told`.
  """
  def explained?(history, processed, cycles) do
    states = Enum.reduce(history ++ [{:cycle, :ok}], [{nil, processed}], &next(&1, &2, cycles))
    Enum.any?(states, &match?({nil, []}, &1))
  end

  # What there may be of a key, and what is still to be processed then.
  defp next({:cycle, :ok}, states, _cycles) do
    Enum.uniq(for state <- states, {nil, _rest} = processed <- processed(state), do: processed)
  end

  defp next({step, answer}, states, cycles) do
    states = if cycles == :any, do: Enum.flat_map(states, &processed/1), else: states

    Enum.uniq(
      for {live, rest} <- states, {expected, live} = step(live, step), expected === answer do
        {live, rest}
      end
    )
  end

  # With or without a cycle now.
  defp processed({live, [next | rest]} = state) when live != nil and live === next do
    [state, {nil, rest}]
  end

  defp processed(state), do: [state]
end
