defmodule PartitionedBuffer.Linearizable do
  @moduledoc false
  # Whether what several processes did to one key at the same time, and what was processed of it, can have
  # happened one after the other.
  #
  # A call is `{step, answer, from, to}`: what was done, what came of it, and two readings of a clock that
  # all processes share, before and after. The calls of each process are in order. A call may have taken
  # effect at any moment between its two readings, and a cycle may have begun at any moment.
  #
  # All orders are tried that the clock allows, each state once: how far each process has come, what is
  # live, and what is still to be processed. (After Wing and Gong, "Testing and verifying concurrent
  # objects".) Keys are independent of each other, so it is enough to look at one at a time.
  #
  # A state is known by how many calls and batches are left, and by what is live. The few that differ in nothing
  # but the latter are compared: to hash it, which may be large, took nearly all of the time.

  alias PartitionedBuffer.MapModel

  @type call :: {step :: term(), answer :: term(), from :: integer(), to :: integer()}

  @doc "Whether the calls of each process on a key, and `[live]` as processed, in order, are possible."
  @spec explained?([[call()]], [MapModel.live()]) :: boolean()
  def explained?(processes, processed) do
    {explained?, _tried} = search({processes, nil, processed}, %{})
    explained?
  end

  defp search({processes, live, processed} = state, tried) do
    left = [length(processed) | Enum.map(processes, &length/1)]
    before = Map.get(tried, left, [])

    cond do
      Enum.any?(before, &(&1 === live)) ->
        {false, tried}

      Enum.all?(processes, &(&1 == [])) and finished?(live, processed) ->
        {true, tried}

      true ->
        state |> successors() |> try_each(Map.put(tried, left, [live | before]))
    end
  end

  # What is live at the end is processed then.
  defp finished?(nil, []), do: true
  defp finished?(live, [last]), do: live === last
  defp finished?(_live, _processed), do: false

  defp try_each([], tried), do: {false, tried}

  defp try_each([state | states], tried) do
    with {false, tried} <- search(state, tried), do: try_each(states, tried)
  end

  defp successors({processes, live, processed}) do
    cycle(processes, live, processed) ++
      for {[{step, answer, from, _to} | rest], place} <- Enum.with_index(processes),
          Enum.all?(processes, &may_be_later?(&1, from)),
          {expected, after_it} = MapModel.step(live, step),
          expected === answer do
        {List.replace_at(processes, place, rest), after_it, processed}
      end
  end

  defp cycle(processes, live, [next | rest]) when live != nil and live === next do
    [{processes, nil, rest}]
  end

  defp cycle(_processes, _live, _processed), do: []

  # A call that had returned before another one began comes before that.
  defp may_be_later?([], _from), do: true
  defp may_be_later?([{_step, _answer, _from, to} | _rest], from), do: to > from
end
