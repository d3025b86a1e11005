defmodule PartitionedBuffer.GenPool.Callback do
  @moduledoc false
  # Runs a callback and says what came out of it, in one shape for all of them.
  #
  # Invariant: what `:gen_server` makes of a callback's return, throw, exit or exception is made of it here:
  # a thrown value is a returned one, a value that is none of the documented shapes is
  # `{:bad_return_value, value}`, an error is `{reason, stacktrace}`.

  @typedoc "What the process does next."
  @type action :: :none | :hibernate | {:timeout, non_neg_integer()} | {:continue, term()}

  @typedoc "What a call is answered with: nothing yet, or something."
  @type answer :: :noreply | {:reply, term()}

  @typedoc "What has come out of a callback."
  @type outcome ::
          {:next, answer(), state :: term(), action()}
          | {:stop, reason :: term(), answer(), state :: term()}
          | {:crash, reason :: term(), Exception.stacktrace()}

  @type kind :: :call | :cast | :info | :continue

  @doc "What an initial state came to."
  @spec init(module(), term()) ::
          {:ok, term(), action()} | :ignore | {:stop, term()} | {:crash, term(), list()}
  def init(module, arg) do
    case apply_safely(module, :init, [arg]) do
      {:returned, {:ok, state}} -> {:ok, state, :none}
      {:returned, {:ok, state, then}} = returned -> init_action(state, then, returned)
      {:returned, :ignore} -> :ignore
      {:returned, {:stop, reason}} -> {:stop, reason}
      # A word for the same, since OTP 26.
      {:returned, {:error, reason}} -> {:stop, reason}
      {:returned, other} -> {:crash, {:bad_return_value, other}, []}
      {:crash, _reason, _stack} = crash -> crash
    end
  end

  defp init_action(state, then, {:returned, returned}) do
    case action(then) do
      {:ok, action} -> {:ok, state, action}
      :error -> {:crash, {:bad_return_value, returned}, []}
    end
  end

  @doc "Runs the callback for a message of this kind."
  @spec run(module(), kind(), message :: term(), from :: GenServer.from() | nil, state :: term()) ::
          outcome()
  def run(module, :call, message, from, state) do
    # Not by `apply_safely/3`: this is done for every request.
    module.handle_call(message, from, state)
  catch
    :throw, value -> called(value)
    :exit, reason -> {:crash, reason, __STACKTRACE__}
    :error, reason -> {:crash, {reason, __STACKTRACE__}, __STACKTRACE__}
  else
    {:reply, reply, state} -> {:next, {:reply, reply}, state, :none}
    other -> called(other)
  end

  def run(module, :cast, message, _from, state) do
    module.handle_cast(message, state)
  catch
    :throw, value -> noreply({:returned, value})
    :exit, reason -> {:crash, reason, __STACKTRACE__}
    :error, reason -> {:crash, {reason, __STACKTRACE__}, __STACKTRACE__}
  else
    {:noreply, state} -> {:next, :noreply, state, :none}
    other -> noreply({:returned, other})
  end

  def run(module, :info, message, _from, state) do
    # Nobody has to expect messages.
    if function_exported?(module, :handle_info, 2),
      do: module |> apply_safely(:handle_info, [message, state]) |> noreply(),
      else: {:next, :noreply, state, :none}
  end

  def run(module, :continue, arg, _from, state),
    do: module |> apply_safely(:handle_continue, [arg, state]) |> noreply()

  @doc "`run/5` of a call, whose usual outcome is what the callback has returned: `{:reply, reply, state}`."
  @spec call(fun(), term(), GenServer.from(), state) :: {:reply, term(), state} | outcome()
        when state: term()
  def call(handle_call, message, from, state) do
    handle_call.(message, from, state)
  catch
    :throw, value -> called(value)
    :exit, reason -> {:crash, reason, __STACKTRACE__}
    :error, reason -> {:crash, {reason, __STACKTRACE__}, __STACKTRACE__}
  else
    {:reply, _reply, _state} = usual -> usual
    other -> called(other)
  end

  @doc "The same of a cast: `{:noreply, state}`."
  @spec cast(fun(), term(), state) :: {:noreply, state} | outcome() when state: term()
  def cast(handle_cast, message, state) do
    handle_cast.(message, state)
  catch
    :throw, value -> noreply({:returned, value})
    :exit, reason -> {:crash, reason, __STACKTRACE__}
    :error, reason -> {:crash, {reason, __STACKTRACE__}, __STACKTRACE__}
  else
    {:noreply, _state} = usual -> usual
    other -> noreply({:returned, other})
  end

  @doc "Lets the module clean up, if it wants to. An exception in it takes the place of the reason."
  @spec terminate(module(), reason :: term(), state :: term()) :: term()
  def terminate(module, reason, state) do
    if function_exported?(module, :terminate, 2), do: module.terminate(reason, state), else: :ok
  catch
    :throw, _value -> :ok
  end

  defp called({:reply, reply, state}), do: {:next, {:reply, reply}, state, :none}

  defp called({:reply, reply, state, then} = returned),
    do: next({:reply, reply}, state, then, returned)

  defp called({:stop, reason, reply, state}), do: {:stop, reason, {:reply, reply}, state}
  defp called(other), do: noreply({:returned, other})

  defp noreply({:returned, {:noreply, state}}), do: {:next, :noreply, state, :none}

  defp noreply({:returned, {:noreply, state, then} = returned}),
    do: next(:noreply, state, then, returned)

  defp noreply({:returned, {:stop, reason, state}}), do: {:stop, reason, :noreply, state}
  defp noreply({:returned, other}), do: {:crash, {:bad_return_value, other}, []}
  defp noreply({:crash, _reason, _stack} = crash), do: crash

  defp next(answer, state, then, returned) do
    case action(then) do
      {:ok, action} -> {:next, answer, state, action}
      :error -> {:crash, {:bad_return_value, returned}, []}
    end
  end

  defp action(:infinity), do: {:ok, :none}
  defp action(:hibernate), do: {:ok, :hibernate}
  defp action({:continue, _arg} = continue), do: {:ok, continue}
  defp action(ms) when is_integer(ms) and ms in 0..4_294_967_295, do: {:ok, {:timeout, ms}}
  defp action(_other), do: :error

  defp apply_safely(module, function, args) do
    {:returned, apply(module, function, args)}
  catch
    :throw, value -> {:returned, value}
    :exit, reason -> {:crash, reason, __STACKTRACE__}
    :error, reason -> {:crash, {reason, __STACKTRACE__}, __STACKTRACE__}
  end
end
